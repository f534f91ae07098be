"""A file of API keys: names, scopes and hashes, but never a key.

The file is replaced as a whole by one process at a time, so that a reader finds the old file or the new one.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dropout_core.errors import McdropError
from mcdrop_models.bundle.atomic import remove_leftovers, replace_file

Scope = Literal["predict", "admin"]
PREFIX = "mcd_"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_RANDOM_BYTES = 32


class InvalidKeys(McdropError):
    """The file of keys cannot be read or changed."""


class Key(BaseModel):
    """One entry of the file.

    Attributes:
        name: Name of the key.
        scope: What the key permits.
        sha256: Hash of the UTF-8 bytes of the key, in hexadecimal.
        created: Time of creation, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_NAME)]
    scope: Scope
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: datetime


class _Document(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    keys: tuple[Key, ...] = ()


def digest_of(key: str) -> str:
    """Return the hash of a key.

    A key has 256 random bits, so that it cannot be guessed however fast the hash is. A salt and a slow hash, which a
    password needs, would only cost time in each request.

    Args:
        key: The key.

    Returns:
        Its SHA-256 in hexadecimal.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file.

    Args:
        path: The file.

    Returns:
        Its entries in order.

    Raises:
        InvalidKeys: The file cannot be read, or is not a file of keys.
    """
    try:
        return _Document.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise InvalidKeys(
            f"the keys in {path} cannot be read: {error.strerror}. mcdrop key new NAME --keys {path} makes the file."
        ) from error
    except ValidationError as error:
        raise InvalidKeys(f"{path} is not a file of keys: {_first(error)}.") from error


def new_key(path: Path, name: str, scope: Scope) -> str:
    """Make a key and store its hash. The file is created if it does not exist.

    Args:
        path: The file.
        name: Name of the key.
        scope: What the key permits.

    Returns:
        The key, which is stored nowhere.

    Raises:
        InvalidKeys: The name is not allowed or already used, or the file cannot be read.
    """
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        made = Key(name=name, scope=scope, sha256=digest_of(secret), created=datetime.now(UTC).replace(microsecond=0))
    except ValidationError as error:
        raise InvalidKeys(
            f"{name!r} cannot name a key: use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or "
            "a digit."
        ) from error

    def add(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        if any(key.name == name for key in keys):
            raise InvalidKeys(f"{path} has a key {name} already; revoke it first, or choose another name.")
        return (*keys, made)

    _change(path, add)
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Remove a key from the file.

    Args:
        path: The file.
        name: Name of the key.

    Raises:
        InvalidKeys: The file has no such key, or cannot be read.
    """

    def remove(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise InvalidKeys(f"{path} has no key {name!r}; it has {known}.")
        return left

    _change(path, remove)


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    """Read, change and replace the file under a lock. A symbolic link is followed, and its target replaced."""
    target = path.resolve()
    with locked(target.parent):
        keys = change(read_keys(target) if target.exists() else ())
        remove_leftovers(target)
        content = _Document(keys=keys).model_dump_json(indent=1).encode() + b"\n"
        replace_file(target, content, mode=0o600, keep_access=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The file cannot carry the lock, since each change replaces it.

    Args:
        folder: Folder of the file of keys.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _first(error: ValidationError) -> str:
    """Return the first mistake, without the value, which may be secret."""
    wrong = error.errors()[0]
    return ": ".join([".".join(map(str, wrong["loc"])), wrong["msg"]]) if wrong["loc"] else wrong["msg"]
