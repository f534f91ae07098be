"""The interface of pool readers, and errors that locate a value that does not fit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop.inference.inputs import array_to_rows
from mcdrop_models.bundle.manifest import InputSpec

Array = NDArray[Any]
Rows = NDArray[np.int64]
Ids = Sequence[str | int]


class Pool(Protocol):
    """Rows in a file or a folder, numbered from 0."""

    @property
    def path(self) -> Path:
        """The file, or the folder."""

    @property
    def stamp(self) -> str:
        """Fingerprint of the content."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""

    @property
    def ids(self) -> Ids | None:
        """Ids of all rows; None if the pool does not have ids."""

    @property
    def costs(self) -> Array | None:
        """Cost of each label, [N]; None if no cost column was named."""

    def parts(self, rows: Rows, size: int) -> Iterator[dict[str, Tensor]]:
        """Read rows in parts.

        Args:
            rows: Row numbers, ascending.
            size: Number of rows in a part.

        Returns:
            An iterator over the parts: rows by input.

        Raises:
            InvalidInput: A row does not fit the input.
        """


@dataclass(frozen=True)
class Location:
    """Location of the rows of a part.

    Attributes:
        path: The file or folder.
        rows: Row numbers in the pool.
        columns: Names of the columns, if they have names.
    """

    path: Path
    rows: Rows
    columns: Sequence[str] = ()

    def named(self, position: Sequence[int], shape: Sequence[int]) -> str:
        """Describe a number of the part by its row in the pool and its column.

        Args:
            position: Index of the number in the part.
            shape: Shape of the part.

        Returns:
            The description.
        """
        row, inner = f"row {self.rows[position[0]]}", tuple(position[1:])
        if not inner:
            return row
        flat = int(np.ravel_multi_index(inner, tuple(shape[1:])))
        if len(self.columns) == prod(shape[1:]):
            return f"{row}, column {self.columns[flat]}"
        return f"{row}, column {inner[0] if len(inner) == 1 else list(inner)}"


def as_rows(values: Array, spec: InputSpec, place: Location) -> Tensor:
    """Convert an array to rows of an input.

    Args:
        values: The array, [n, …].
        spec: The input.
        place: Location of the array, for errors.

    Returns:
        The rows.

    Raises:
        InvalidInput: A value does not fit; names the file, the row and the column.
    """
    try:
        return array_to_rows(values, spec)
    except InvalidInput as error:
        raise InvalidInput(f"{place.path}: {_misfit(values, spec, place) or error}") from error


def shaped(values: Array, spec: InputSpec) -> Array:
    """Reshape flat rows to the shape of an input, if all of its sizes are fixed.

    Args:
        values: The rows.
        spec: The input.

    Returns:
        The rows in the shape of the input.
    """
    sizes = [size for size in spec.shape if isinstance(size, int)]
    fixed = len(sizes) == len(spec.shape)
    if fixed and values.ndim == 2 and values.shape[1:] != tuple(sizes) and values.shape[1] == prod(sizes):
        return values.reshape(len(values), *sizes)
    return values


def regrouped(pieces: Iterable[Mapping[str, Tensor]], size: int) -> Iterator[dict[str, Tensor]]:
    """Regroup pieces of any number of rows into parts of `size` rows; the last part has the rest.

    Args:
        pieces: Rows by input.
        size: Number of rows in a part.

    Yields:
        The rows of a part, by input.
    """
    held: dict[str, Tensor] = {}
    for piece in pieces:
        held = {name: _after(name, held.get(name), values) for name, values in piece.items()}
        while len(next(iter(held.values()))) >= size:
            yield {name: values[:size] for name, values in held.items()}
            held = {name: values[size:] for name, values in held.items()}
    if held and len(next(iter(held.values()))):
        yield held


def _after(name: str, held: Tensor | None, values: Tensor) -> Tensor:
    if held is None or not len(held):
        return values
    if held.shape[1:] != values.shape[1:]:
        raise InvalidInput(
            f"rows of {name} have the shapes {list(held.shape[1:])} and {list(values.shape[1:])}; pad the shorter."
        )
    return torch.cat([held, values])


def _misfit(values: Array, spec: InputSpec, place: Location) -> str:
    """Describe the first number that an input cannot hold; empty if the kind or the shape does not fit."""
    dtype = np.dtype(spec.dtype)
    if values.dtype.kind not in "iufb" or not values.size:
        return ""
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(dtype)
    wrong = ~np.isfinite(converted) if dtype.kind == "f" else converted != values
    if not wrong.any():
        return ""
    position = tuple(int(index) for index in np.argwhere(wrong)[0])
    taken = "true and false, or 1 and 0" if spec.dtype == "bool" else f"finite {spec.dtype} numbers"
    return f"{place.named(position, values.shape)} is {values[position]}; {spec.name} takes {taken}."
