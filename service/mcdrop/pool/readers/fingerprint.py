"""Fingerprints that detect a changed pool without reading all of it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_EDGE_BYTES = 2**16


def stamp_of_file(path: Path) -> str:
    """Return the fingerprint of a file: its length, its modification time, and its first and last 64 KiB.

    Args:
        path: The file.

    Returns:
        The fingerprint.
    """
    status = path.stat()
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(0, status.st_size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()


def stamp_of_files(folder: Path, names: Iterable[str]) -> str:
    """Return the fingerprint of the files of a folder: their names, lengths and modification times.

    Args:
        folder: The folder.
        names: Names of the files.

    Returns:
        The fingerprint.
    """
    digest = hashlib.sha256()
    for name in names:
        status = (folder / name).stat()
        digest.update(f"{name}\0{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
