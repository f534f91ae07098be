"""Boundaries: the values that one stage hands to the next, for some rows and some passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dropout_core.graph.program import RowAxis


@dataclass(frozen=True)
class Boundary:
    """The values that the suffix needs from the prefix, for some rows.

    Attributes:
        places: int64 [b], the position of each row in its request.
        values: Values by name.
        layout: Where each value's rows lie; None if it has none.
        sizes: Sizes of the free dimensions.
    """

    places: Tensor
    values: Mapping[str, Tensor]
    layout: Mapping[str, RowAxis | None]
    sizes: Mapping[str, int]

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.places)

    @property
    def device(self) -> torch.device:
        """The device of the values."""
        return self.places.device

    def rows(self, wanted: Tensor) -> "Boundary":
        """Return the boundary of some rows.

        Args:
            wanted: A bool or a position for each row.

        Returns:
            The boundary.
        """
        values = {name: self._some(value, self.layout[name], wanted) for name, value in self.values.items()}
        return replace(self, places=self.places[wanted], values=values)

    def split(self, count: int) -> list["Boundary"]:
        """Return the boundaries of parts of the rows, in order.

        Args:
            count: Rows of a part.

        Returns:
            The boundaries.
        """
        return [self.rows(part) for part in torch.arange(self.num_rows, device=self.device).split(count)]

    def _some(self, value: Tensor, where: RowAxis | None, wanted: Tensor) -> Tensor:
        if where is None:
            return value
        places = wanted.nonzero()[:, 0] if wanted.dtype == torch.bool else wanted
        unfolded = value.unflatten(where.axis, (where.before, self.num_rows, where.after))
        some: Tensor = unfolded.index_select(where.axis + 1, places).flatten(where.axis, where.axis + 2)
        return some


def join(parts: list[Tensor], where: RowAxis | None) -> Tensor:
    """Join one value of several sets of rows along its rows.

    Args:
        parts: The value for each set.
        where: Where its rows lie; None if it has none.

    Returns:
        The value of all rows.
    """
    if where is None or len(parts) == 1:
        return parts[0]
    axis = where.axis
    unfolded = [part.unflatten(axis, (where.before, -1, where.after)) for part in parts]
    return torch.cat(unfolded, dim=axis + 1).flatten(axis, axis + 2)


def repeat(value: Tensor, where: RowAxis | None, times: int, num_rows: int) -> Tensor:
    """Repeat each block of `num_rows` rows `times` times along the row axis, like `repeat_interleave` on blocks.

    Args:
        value: A value of num_rows rows, or of a multiple.
        where: Where its rows lie; None if it has none.
        times: Number of repetitions.
        num_rows: Rows of a block.

    Returns:
        The repeated value.
    """
    if where is None or times == 1:
        return value
    axis = where.axis
    unfolded: Tensor = value.unflatten(axis, (where.before, -1, 1, num_rows, where.after))
    sizes = list(unfolded.shape)
    sizes[axis + 2] = times
    return unfolded.expand(sizes).flatten(axis, axis + 4)
