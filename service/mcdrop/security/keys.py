"""A file of API keys: their names, what they open, and their hashes; never a key.

It is replaced as a whole, by one process at a time: a reader finds the old file or the new one.
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
    """The file of keys cannot be read, or what is asked of it cannot be done."""


class Key(BaseModel):
    """What is kept of a key. sha256: of its UTF-8 bytes, in hexadecimal. created: UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_NAME)]
    scope: Scope
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: datetime


class _Document(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    keys: tuple[Key, ...] = ()


def digest_of(key: str) -> str:
    """The hash of a key.

    A key has 256 random bits, so that nobody finds it by trying, however fast the hash; salt and slowness, which a
    password needs, would only cost time in each request.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file. Raises InvalidKeys."""
    try:
        return _Document.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise InvalidKeys(
            f"the keys in {path} cannot be read: {error.strerror}. mcdrop key new NAME --keys {path} makes the file."
        ) from error
    except ValidationError as error:
        raise InvalidKeys(f"{path} is no file of keys: {_first(error)}.") from error


def new_key(path: Path, name: str, scope: Scope) -> str:
    """Make a key and keep its hash; the file is made where there is none. Returns the key, which is nowhere else."""
    secret = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        made = Key(name=name, scope=scope, sha256=digest_of(secret), created=datetime.now(UTC).replace(microsecond=0))
    except ValidationError as error:
        raise InvalidKeys(
            f"{name!r} is no name of a key: up to 64 letters, digits, '.', '_' and '-', and no sign first."
        ) from error

    def add(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        if any(key.name == name for key in keys):
            raise InvalidKeys(f"{path} has a key {name} already; revoke it first, or choose another name.")
        return (*keys, made)

    _change(path, add)
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file. Raises InvalidKeys where there is none of the name."""

    def remove(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise InvalidKeys(f"{path} has no key {name!r}; it has {known}.")
        return left

    _change(path, remove)


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    """Read, change and replace the file, with nobody else between. A link is followed: what it leads to is replaced."""
    target = path.resolve()
    with _alone(target.parent):
        keys = change(read_keys(target) if target.exists() else ())
        remove_leftovers(target)
        content = _Document(keys=keys).model_dump_json(indent=1).encode() + b"\n"
        replace_file(target, content, mode=0o600, keep_access=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The file itself cannot carry it: it is another file after each change."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _first(error: ValidationError) -> str:
    """What is wrong first, without what stands there."""
    wrong = error.errors()[0]
    return ": ".join([".".join(map(str, wrong["loc"])), wrong["msg"]]) if wrong["loc"] else wrong["msg"]
