"""What a stage hands to the next one: values whose rows lie somewhere along an axis, for some rows and some passes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dropout_core.graph.program import RowAxis


@dataclass(frozen=True)
class Boundary:
    """What some rows' suffix needs of their prefix.

    places: int64 [b], the rows' places in their request. layout: where each value's rows lie; None: it has none. sizes:
    of the free dimensions.
    """

    places: Tensor
    values: Mapping[str, Tensor]
    layout: Mapping[str, RowAxis | None]
    sizes: Mapping[str, int]

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.places)

    @property
    def device(self) -> torch.device:
        """Where the values lie."""
        return self.places.device

    def rows(self, wanted: Tensor) -> "Boundary":
        """Some of the rows, by a Boolean or a place for each."""
        values = {name: self._some(value, self.layout[name], wanted) for name, value in self.values.items()}
        return replace(self, places=self.places[wanted], values=values)

    def split(self, count: int) -> list["Boundary"]:
        """The rows in parts of `count`, in order."""
        return [self.rows(part) for part in torch.arange(self.num_rows, device=self.device).split(count)]

    def _some(self, value: Tensor, where: RowAxis | None, wanted: Tensor) -> Tensor:
        if where is None:
            return value
        places = wanted.nonzero()[:, 0] if wanted.dtype == torch.bool else wanted
        unfolded = value.unflatten(where.axis, (where.before, self.num_rows, where.after))
        some: Tensor = unfolded.index_select(where.axis + 1, places).flatten(where.axis, where.axis + 2)
        return some


def join(parts: list[Tensor], where: RowAxis | None) -> Tensor:
    """One value of several sets of rows, joined along its rows."""
    if where is None or len(parts) == 1:
        return parts[0]
    axis = where.axis
    unfolded = [part.unflatten(axis, (where.before, -1, where.after)) for part in parts]
    return torch.cat(unfolded, dim=axis + 1).flatten(axis, axis + 2)


def repeat(value: Tensor, where: RowAxis | None, times: int, num_rows: int) -> Tensor:
    """A value of num_rows rows, or of a multiple of them, each set of rows so many times in a row."""
    if where is None or times == 1:
        return value
    axis = where.axis
    unfolded: Tensor = value.unflatten(axis, (where.before, -1, 1, num_rows, where.after))
    sizes = list(unfolded.shape)
    sizes[axis + 2] = times
    return unfolded.expand(sizes).flatten(axis, axis + 4)
