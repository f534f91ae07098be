"""Pools in CSV files: a header, then one row per line."""

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop.pool.readers.base import Array, Ids, Location, Rows, as_rows, shaped
from mcdrop.pool.readers.columns import SpecialColumns, columns_of
from mcdrop.pool.readers.fingerprint import stamp_of_file
from mcdrop_models.bundle.manifest import InputSpec


@dataclass(frozen=True)
class CsvPool:
    """The rows of a .csv file, which is read from its beginning at each pass over it."""

    path: Path
    stamp: str
    num_rows: int
    specs: Mapping[str, InputSpec]
    header: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    ids: Ids | None
    costs: Array | None

    def parts(self, rows: Rows, size: int) -> Iterator[dict[str, Tensor]]:
        """See Pool."""
        lines, number = _lines(self.path, self.header), 0
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            kept = []
            for wanted in some.tolist():
                while number < wanted:
                    next(lines)
                    number += 1
                kept.append(next(lines))
                number += 1
            yield {name: self._input(name, kept, some) for name in self.specs}

    def _input(self, name: str, lines: Sequence[list[str]], rows: Rows) -> Tensor:
        columns, spec = self.columns[name], self.specs[name]
        at = [self.header.index(column) for column in columns]
        try:
            values = np.array([[float(cells[place]) for place in at] for cells in lines])
        except ValueError:
            raise _unreadable(self.path, lines, rows, self.header, at) from None
        return as_rows(shaped(values, spec) if spec.shape else values[:, 0], spec, Location(self.path, rows, columns))


def csv_pool(path: Path, specs: Mapping[str, InputSpec], apart: SpecialColumns) -> CsvPool:
    """Open a .csv file; reads it once for its ids, its costs and the number of rows.

    Args:
        path: The file.
        specs: The inputs of the model, by name.
        apart: The columns that hold ids and costs.

    Returns:
        The pool.
    """
    header = _header(path)
    columns = columns_of(path, header, specs, apart)
    ids: list[str | int] = []
    costs, count = array("d"), 0
    for cells in _lines(path, header):
        if apart.ids is not None:
            ids.append(cells[header.index(apart.ids)])
        if apart.costs is not None:
            costs.append(_number(path, cells[header.index(apart.costs)], count, apart.costs))
        count += 1
    found = None if apart.costs is None else np.array(costs)
    return CsvPool(path, stamp_of_file(path), count, specs, header, columns, ids if apart.ids else None, found)


def _header(path: Path) -> tuple[str, ...]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = tuple(next(csv.reader(file), ()))
    if not names or all(_is_number(name) for name in names):
        raise InvalidInput(f"{path} begins with {', '.join(names[:4])!r}; a line with the names of columns is wanted.")
    return names


def _lines(path: Path, header: Sequence[str]) -> Iterator[list[str]]:
    """Yield the cells of each row, without empty lines."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        next(reader, None)
        number = 0
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InvalidInput(f"{path}: row {number} has {len(cells)} cells; the header has {len(header)}.")
            yield cells
            number += 1


def _unreadable(
    path: Path, lines: Sequence[list[str]], rows: Rows, header: Sequence[str], at: Sequence[int]
) -> InvalidInput:
    """Return the error for the first cell that is not a number."""
    row, place = next((i, j) for i, cells in enumerate(lines) for j in at if not _is_number(cells[j]))
    return InvalidInput(
        f"{path}: row {rows[row]}, column {header[place]} is {lines[row][place][:20]!r}; a number is wanted."
    )


def _number(path: Path, cell: str, row: int, column: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise InvalidInput(f"{path}: row {row}, column {column} is {cell[:20]!r}; a number is wanted.") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
