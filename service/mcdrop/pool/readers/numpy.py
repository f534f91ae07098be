"""Pools in NumPy files. Only requested rows are read; the file is neither mapped nor held in memory."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop.pool.readers.base import Array, Ids, Location, Rows, as_rows
from mcdrop.pool.readers.fingerprint import stamp_of_file
from mcdrop_models.bundle.manifest import InputSpec

Opened = Callable[[], IO[bytes]]
_HEADERS: Mapping[tuple[int, int], Callable[..., Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


@dataclass(frozen=True)
class _Stored:
    """An array [N, *row] in a file: its numbers begin after `start` bytes. columnwise: as Fortran has them."""

    dtype: "np.dtype[Any]"
    row: tuple[int, ...]
    num_rows: int
    columnwise: bool
    start: int

    def read(self, file: IO[bytes], rows: Rows) -> Array:
        """Rows, ascending, as [n, *row]. Each stretch of neighbours is read at once."""
        width = prod(self.row)
        lines, each = (width, 1) if self.columnwise else (1, width)
        found = np.empty((lines, len(rows) * each), self.dtype)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        stretches = zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True)
        for first, end in stretches if len(rows) else ():
            for line in range(lines):
                file.seek(self.start + (line * self.num_rows + int(rows[first])) * each * self.dtype.itemsize)
                wanted = found[line, first * each : end * each].view(np.uint8).data
                if file.readinto(wanted) != len(wanted):  # type: ignore[attr-defined]
                    raise EOFError("it ends before its last row")
        return found.reshape(*self.row[::-1], len(rows)).T if self.columnwise else found.reshape(-1, *self.row)


@dataclass(frozen=True)
class NumpyPool:
    """The rows of a .npy file, or of the members of a .npz, by input.

    A compressed member, and a stored one in a .npz, is read forwards from its beginning at each pass over it: in
    bounded memory, and slower than a .npy where few rows are wanted.
    """

    path: Path
    stamp: str
    num_rows: int
    specs: Mapping[str, InputSpec]
    members: Mapping[str, tuple[Opened, _Stored]]
    ids: Ids | None = None
    costs: Array | None = None

    def parts(self, rows: Rows, size: int) -> Iterator[dict[str, Tensor]]:
        """See Pool."""
        files = {name: opened() for name, (opened, _) in self.members.items()}
        try:
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                yield {name: self._read(name, file, some) for name, file in files.items()}
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{self.path} cannot be read: {error}.") from error
        finally:
            for file in files.values():
                file.close()

    def _read(self, name: str, file: IO[bytes], rows: Rows) -> Tensor:
        return as_rows(self.members[name][1].read(file, rows), self.specs[name], Location(self.path, rows))


def npy_pool(path: Path, specs: Mapping[str, InputSpec]) -> NumpyPool:
    """Open a .npy file for a model with one input.

    Args:
        path: The file.
        specs: The inputs of the model, by name.

    Returns:
        The pool.
    """
    if len(specs) > 1:
        raise InvalidInput(f"{path} is one array; the model takes {', '.join(specs)}. Put them into a .npz by name.")
    return _pool(path, specs, {name: lambda: path.open("rb") for name in specs}, lambda _: path.stat().st_size)


def npz_pool(path: Path, specs: Mapping[str, InputSpec]) -> NumpyPool:
    """Open a .npz file with one member per input.

    Args:
        path: The file.
        specs: The inputs of the model, by name.

    Returns:
        The pool.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {one.filename.removesuffix(".npy"): one.file_size for one in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path} cannot be read as a .npz file: {error}.") from error
    if set(sizes) != set(specs):
        raise InvalidInput(f"{path} has the arrays {', '.join(sizes) or 'none'}; the model takes {', '.join(specs)}.")
    return _pool(path, specs, {name: _member(path, name) for name in specs}, sizes.__getitem__)


def _member(path: Path, name: str) -> Opened:
    def opened() -> IO[bytes]:
        archive = zipfile.ZipFile(path)
        file = archive.open(f"{name}.npy")
        archive.close()  # the member keeps the file open, until it is closed itself
        return file

    return opened


def _pool(
    path: Path, specs: Mapping[str, InputSpec], opened: Mapping[str, Opened], size_of: Callable[[str], int]
) -> NumpyPool:
    try:
        members = {name: (opened[name], _stored(opened[name], size_of(name))) for name in specs}
        stamp = stamp_of_file(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path} cannot be read as a {path.suffix} array: {error}.") from error
    counts = {name: stored.num_rows for name, (_, stored) in members.items()}
    if len(set(counts.values())) > 1:
        raise InvalidInput(f"{path} has as many rows: {counts}; every input must have the same number.")
    pool = NumpyPool(path, stamp, next(iter(counts.values())), specs, members)
    for name, (_, stored) in members.items():  # kind and shape, before any row is read
        as_rows(np.empty((0, *stored.row), stored.dtype), specs[name], Location(path, np.zeros(0, np.int64)))
    return pool


def _stored(opened: Opened, size: int) -> _Stored:
    """Parse the header. Raises ValueError unless it describes a complete array of numbers."""
    with opened() as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"it has the version {version} of the format; numpy.save writes 1 and 2")
        shape, columnwise, dtype = _HEADERS[version](file)
        start = file.tell()
    if not shape:
        raise ValueError("it holds a single number; an array, rows first, is wanted")
    if dtype.hasobject:
        raise ValueError("it holds objects of Python; numbers are wanted")
    wanted = prod(shape) * dtype.itemsize
    if size != start + wanted:
        raise ValueError(f"it has {size - start} bytes of numbers; {dtype} of shape {list(shape)} has {wanted}")
    return _Stored(dtype, tuple(shape[1:]), shape[0], columnwise and len(shape) > 1, start)
