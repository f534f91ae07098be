"""Bundles on disk, in folders <root>/<name>/<version>.

Each holds manifest.json, program.json and weights.safetensors, and may hold prefix.onnx and suffix.onnx. A version
appears whole or not at all: its files are written to a hidden folder and synced, and the folder is renamed. Two
publishers at once get two versions. A version that does not match its digests is listed with the reason, and never
loaded.
"""

import hashlib
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pydantic import ValidationError

from mcdrop_models.bundle.atomic import sync_folder, write_synced
from mcdrop_models.bundle.manifest import (
    NAME_PATTERN,
    PREFIX_FILE,
    PROGRAM_FILE,
    SUFFIX_FILE,
    WEIGHTS_FILE,
    Manifest,
    sha256,
)
from mcdrop_models.errors import InvalidBundle, UnknownModel

MANIFEST_FILE = "manifest.json"
FILE_NAMES = (MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, PREFIX_FILE, SUFFIX_FILE)
# protobuf reads at most 2 GiB.
_MAX_BYTES = {
    MANIFEST_FILE: 2**20,
    PROGRAM_FILE: 2**26,
    WEIGHTS_FILE: 2**37,
    PREFIX_FILE: 2**31 - 1,
    SUFFIX_FILE: 2**31 - 1,
}
_VERSION_PATTERN = r"[1-9][0-9]{0,8}"


@dataclass(frozen=True)
class BundleFiles:
    """The content of a bundle, after its digests were checked.

    Attributes:
        manifest: The manifest.
        program: The content of program.json.
        weights: The content of weights.safetensors.
        prefix: The content of prefix.onnx, if the bundle has it.
        suffix: The content of suffix.onnx, if the bundle has it.
    """

    manifest: Manifest
    program: bytes
    weights: bytes
    prefix: bytes | None = None
    suffix: bytes | None = None


@dataclass(frozen=True)
class BundleEntry:
    """A version of a bundle on disk.

    Attributes:
        name: The name of the bundle.
        version: Its version.
        manifest: Its manifest; None where the version cannot be served.
        reason: Why the version cannot be served; empty where it can.
    """

    name: str
    version: int
    manifest: Manifest | None = None
    reason: str = ""


class Repository:
    """The bundles under one folder.

    Args:
        root: The folder. It need not exist.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def names(self) -> list[str]:
        """Return the names that have at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if is_valid_name(path.name) and self.versions(path.name)
        )

    def versions(self, name: str) -> list[int]:
        """Return the versions of a name, newest first, whether they can be served or not.

        Args:
            name: The name of a bundle.

        Returns:
            The numbers of its versions.

        Raises:
            UnknownModel: No bundle may have this name.
        """
        folder = self.root / validate_name(name)
        if not folder.is_dir():
            return []
        found = (path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
        return sorted((int(version) for version in found if re.fullmatch(_VERSION_PATTERN, version)), reverse=True)

    def entries(self) -> list[BundleEntry]:
        """Return every version of every name, newest first, after checking its digests."""
        return [self.entry(name, version) for name in self.names() for version in self.versions(name)]

    def entry(self, name: str, version: int) -> BundleEntry:
        """Return one version, after checking its digests. Weights are hashed without holding them in memory.

        Args:
            name: The name of the bundle.
            version: Its version.

        Returns:
            The version, with the reason where it cannot be served.

        Raises:
            UnknownModel: There is no such version.
        """
        try:
            manifest, folder = self._manifest(name, version)
            _refuse_changed(manifest, version, {file: _digest(folder / file) for file in manifest.files})
            return BundleEntry(name, version, manifest)
        except InvalidBundle as error:
            return BundleEntry(name, version, reason=str(error))

    def read(self, name: str, version: int) -> BundleFiles:
        """Return the content of a version, after checking its digests.

        Args:
            name: The name of the bundle.
            version: Its version.

        Returns:
            The manifest and the content of the other files.

        Raises:
            UnknownModel: There is no such version.
            InvalidBundle: The version is not what was published.
        """
        manifest, folder = self._manifest(name, version)
        content = {file: _content(folder / file) for file in manifest.files}
        _refuse_changed(manifest, version, {file: sha256(found) for file, found in content.items()})
        return BundleFiles(
            manifest, content[PROGRAM_FILE], content[WEIGHTS_FILE], content.get(PREFIX_FILE), content.get(SUFFIX_FILE)
        )

    def _manifest(self, name: str, version: int) -> tuple[Manifest, Path]:
        if version not in self.versions(name):
            raise self.unknown(name, version)
        folder = self.root / name / str(version)
        try:
            manifest = Manifest.model_validate_json(_content(folder / MANIFEST_FILE))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            at = ".".join(map(str, first["loc"])) or "the top level"
            raise InvalidBundle(f"{MANIFEST_FILE} of {name}/{version} is wrong at {at}: {first['msg']}") from error
        if manifest.name != name:
            raise InvalidBundle(f"{MANIFEST_FILE} of {name}/{version} belongs to {manifest.name!r}.")
        return manifest, folder

    def publish(
        self,
        manifest: Manifest,
        program: bytes,
        weights: bytes,
        prefix: bytes | None = None,
        suffix: bytes | None = None,
    ) -> int:
        """Write a bundle as the next version of its name, all or nothing.

        Args:
            manifest: The manifest, with the digests of the files.
            program: The content of program.json.
            weights: The content of weights.safetensors.
            prefix: The content of prefix.onnx, if the bundle has it.
            suffix: The content of suffix.onnx, if the bundle has it.

        Returns:
            The version.
        """
        folder = self.root / manifest.name
        staging = folder / f".publish-{uuid.uuid4().hex}"
        staging.mkdir(parents=True)
        try:
            for file, content in zip(FILE_NAMES[1:], (program, weights, prefix, suffix), strict=True):
                if content is not None:
                    write_synced(staging / file, content)
            write_synced(staging / MANIFEST_FILE, manifest.model_dump_json(by_alias=True, indent=1).encode())
            sync_folder(staging)
            version = self._place(staging, manifest.name)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_folder(folder)
        return version

    def _place(self, staging: Path, name: str) -> int:
        """Rename to the next free version, or to the one after where another publisher takes it first."""
        version = max(self.versions(name), default=0) + 1
        while True:
            place = self.root / name / str(version)
            try:
                staging.rename(place)
            except OSError:
                if not place.exists() and not place.is_symlink():
                    raise
                version += 1
            else:
                return version

    def unknown(self, name: str, version: int | None) -> UnknownModel:
        """Return the error for a name or a version that does not exist.

        Args:
            name: The name.
            version: The version; None where the name has no version at all.

        Returns:
            An error that lists what exists.
        """
        if version is not None and (versions := self.versions(name)):
            return UnknownModel(f"{name} has no version {version}; it has {', '.join(map(str, versions))}.")
        names = ", ".join(self.names()) or "none: publish one with `mcdrop publish` or `mcdrop train`"
        return UnknownModel(f"there is no model {name!r}; there are {names}.")


def is_valid_name(name: str) -> bool:
    """Return whether a bundle may have a name.

    Args:
        name: The name.

    Returns:
        Whether it has up to 64 lower-case letters, digits, '_' and '-', beginning with a letter or digit.
    """
    return re.fullmatch(NAME_PATTERN, name) is not None


def validate_name(name: str) -> str:
    """Return a name if a bundle may have it. Such names cannot reach outside the root.

    Args:
        name: The name.

    Returns:
        The same name.

    Raises:
        UnknownModel: No bundle may have this name.
    """
    if not is_valid_name(name):
        raise UnknownModel(
            f"{name!r} is not a model name; use up to 64 lower-case letters, digits, '_' and '-', "
            "beginning with a letter or digit."
        )
    return name


def _refuse_changed(manifest: Manifest, version: int, found: dict[str, str]) -> None:
    for file, digest in found.items():
        if digest != manifest.files[file]:
            raise InvalidBundle(
                f"{file} of {manifest.name}/{version} does not match its digest; it was changed after publishing."
            )


def _content(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


def _digest(path: Path) -> str:
    with _opened(path) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file of a bundle after checking its size. Links are not followed."""
    if path.is_symlink() or not path.is_file():
        raise InvalidBundle(
            f"{path.name} of {path.parent.parent.name}/{path.parent.name} is missing or is not a plain file."
        )
    try:
        size, bound = path.stat().st_size, _MAX_BYTES[path.name]
        if size > bound:
            raise InvalidBundle(f"{path.name} has {size} bytes; at most {bound} are allowed.")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidBundle(f"{path.name} cannot be read: {error.strerror}.") from error
