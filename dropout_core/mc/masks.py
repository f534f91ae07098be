"""The noise of (seed, site, passes): shared by all rows, independent between passes."""

import math

import torch
from torch import Tensor

from dropout_core.mc.kinds import KINDS
from dropout_core.mc.program import Rows, Site


class Masks:
    """The noise of a run of passes, made when a site first asks for it. Nothing outlives the run."""

    def __init__(self, seed: int, first: int, count: int) -> None:
        self._seed, self._first, self._count = seed, first, count
        self._made: dict[int, Tensor] = {}

    def apply(self, site: Site, value: Tensor, start: int, stop: int, num_rows: int) -> Tensor:
        """The value of a site in passes start … stop − 1, counted from the first of this run.

        value: its input, of num_rows rows (at least one), or of (stop − start) · num_rows, passes outermost.
        """
        apply, draws = KINDS[site.kind].apply, self._draws(site, value)[start:stop]
        if site.rows is None:
            return apply(value, draws[0], site.rate)
        axis, before, after = site.rows.axis, site.rows.before, site.rows.after
        passes: Tensor = value.unflatten(axis, (before, -1, num_rows, after))
        return apply(passes, draws.movedim(0, axis + 1).unsqueeze(axis + 2), site.rate).flatten(axis, axis + 3)

    def _draws(self, site: Site, value: Tensor) -> Tensor:
        """[count, *pre, before, after, *post]: the value's axes with the rows taken out."""
        if site.index not in self._made:
            shape, drawn = mask_shape(site, value)
            passes = torch.arange(self._first, self._first + self._count, device=value.device)
            made = KINDS[site.kind].noise(self._seed, site.index, passes, drawn, site.rate, value.dtype)
            self._made[site.index] = made.reshape(self._count, *shape)
        return self._made[site.index]


def quiet(site: Site, value: Tensor) -> Tensor:
    """The value of a site with its noise off."""
    return KINDS[site.kind].quiet(value, site.rate)


def num_units(site: Site, value: Tensor) -> int:
    """How many draws one pass of a site takes."""
    return math.prod(mask_shape(site, value)[1])


def mask_shape(site: Site, value: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of one pass of a mask, [*pre, before, after, *post], and the coordinates it is drawn over.

    A feature dropout draws over the first two axes only. The rows' own axis is no coordinate: rows share a mask. How
    many coordinates a site has does not depend on sizes (a fold of 1 is no fold), so that a longer sequence contains a
    shorter one's mask.
    """
    sizes = [(size, axis < 2 or not KINDS[site.kind].per_channel) for axis, size in enumerate(value.shape)]
    if site.rows is not None:
        sizes[site.rows.axis : site.rows.axis + 1] = _folds(site.rows)
    shape = tuple(size if drawn else 1 for size, drawn in sizes)
    return shape, tuple(size for size, drawn in sizes if drawn)


def _folds(rows: Rows) -> list[tuple[int, bool]]:
    return [(rows.before, rows.before > 1), (rows.after, rows.after > 1)]
