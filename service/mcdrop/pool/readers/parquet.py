"""Pools in Parquet files: one column per number of a row, or one column of lists."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop.pool.readers.base import Array, Ids, Location, Rows, as_rows, regrouped, shaped
from mcdrop.pool.readers.columns import SpecialColumns, columns_of, extra
from mcdrop.pool.readers.fingerprint import stamp_of_file
from mcdrop_models.bundle.manifest import InputSpec

# rows of a batch, of which those that are wanted are kept
_BATCH = 4096


@dataclass(frozen=True)
class ParquetPool:
    """The rows of a .parquet file. It holds one row group at a time and skips those without requested rows."""

    path: Path
    stamp: str
    num_rows: int
    specs: Mapping[str, InputSpec]
    columns: Mapping[str, tuple[str, ...]]
    ids: Ids | None
    costs: Array | None

    def parts(self, rows: Rows, size: int) -> Iterator[dict[str, Tensor]]:
        """See Pool."""
        with _file(self.path) as file:
            yield from regrouped(self._pieces(file, rows), size)

    def _pieces(self, file: Any, rows: Rows) -> Iterator[dict[str, Tensor]]:
        names = list(dict.fromkeys(name for columns in self.columns.values() for name in columns))
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if _within(rows, start, end).size:
                for batch in file.iter_batches(_BATCH, row_groups=[group], columns=names):
                    wanted = _within(rows, start, start + len(batch))
                    if wanted.size:
                        kept = batch.take(wanted - start) if wanted.size < len(batch) else batch
                        yield {name: self._input(name, kept, wanted) for name in self.specs}
                    start += len(batch)
            start = end

    def _input(self, name: str, batch: Any, rows: Rows) -> Tensor:
        columns, spec = self.columns[name], self.specs[name]
        found = [_values(self.path, batch.column(column), column, rows) for column in columns]
        alone = len(found) == 1 and (found[0].ndim > 1 or not spec.shape)
        # copied either way: what pyarrow gives may not be written to, which torch wants
        values = found[0].copy() if alone else np.stack(found, axis=1)
        return as_rows(shaped(values, spec), spec, Location(self.path, rows, columns))


def parquet_pool(path: Path, specs: Mapping[str, InputSpec], apart: SpecialColumns) -> ParquetPool:
    """Open a .parquet file; only ids and costs are held for all rows.

    Args:
        path: The file.
        specs: The inputs of the model, by name.
        apart: The columns that hold ids and costs.

    Returns:
        The pool.
    """
    with _file(path) as file:
        columns = columns_of(path, file.schema_arrow.names, specs, apart)
        side_columns = file.read(columns=list(apart.names)) if apart.names else None
        count = file.metadata.num_rows
    ids = None if side_columns is None or apart.ids is None else side_columns.column(apart.ids).to_pylist()
    if ids is not None and not all(isinstance(one, str | int) for one in ids):
        raise InvalidInput(f"{path}: the column {apart.ids} holds other ids than texts and whole numbers; write those.")
    costs = None
    if side_columns is not None and apart.costs is not None:
        costs = _values(path, side_columns.column(apart.costs).combine_chunks(), apart.costs, np.arange(count)).astype(
            float
        )
    return ParquetPool(path, stamp_of_file(path), count, specs, columns, ids, costs)


def _file(path: Path) -> Any:
    parquet, arrow = extra("pyarrow.parquet", path), extra("pyarrow", path)
    try:
        return parquet.ParquetFile(path)
    except arrow.ArrowException as error:
        raise InvalidInput(f"{path} cannot be read as a .parquet file: {error}.") from error


def _values(path: Path, column: Any, name: str, rows: Rows) -> Array:
    """Return the numbers of a column, [n], or of a column of nested lists, [n, …]."""
    types = extra("pyarrow.types", path)
    shape = [len(rows)]
    while types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        _refuse_null(path, column, name, rows)
        lengths = np.array([len(one) for one in column])
        if len(set(lengths.tolist())) > 1:
            raise InvalidInput(f"{path}: the lists of column {name} have {set(lengths.tolist())} numbers; pad them.")
        shape.append(int(lengths[0]))
        column = column.flatten()
    if not (types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type)):
        raise InvalidInput(f"{path}: the column {name} holds {column.type}; numbers are wanted, or lists of them.")
    _refuse_null(path, column, name, rows)
    values: Array = column.to_numpy(zero_copy_only=False)
    return values.reshape(shape)


def _refuse_null(path: Path, column: Any, name: str, rows: Rows) -> None:
    if column.null_count:
        place = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        row = rows[place * len(rows) // len(column)]
        raise InvalidInput(f"{path}: row {row}, column {name} is null; a number is wanted.")


def _within(rows: Rows, start: int, end: int) -> Rows:
    first, last = np.searchsorted(rows, [start, end])
    return rows[first:last]
