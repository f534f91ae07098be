"""The noise of (seed, scheme, passes), site by site, and what the sites make of it."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from dropout_core.engine.options import PassOptions
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.graph.program import RowAxis, Site
from dropout_core.noise.balanced import balanced_words, block_words, columns, table_words
from dropout_core.noise.limits import BLOCK
from dropout_core.noise.philox import drop_threshold, words


class Masks:
    """The noise of a run of passes, made when a site first asks for it and kept for its other rows.

    Shared and balanced, sixteen passes of a unit are kept as one number; independent noise is not kept.
    """

    def __init__(self, options: PassOptions, passes: range) -> None:
        self._options, self._passes = options, passes
        self._kept: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    @property
    def nbytes(self) -> int:
        """The bytes of what is kept."""
        return sum(kept.nbytes for kept in list(self._kept.values()))

    def apply(self, site: Site, value: Tensor, start: int, stop: int, rows: Tensor) -> Tensor:
        """The value of a site in passes start … stop − 1, counted from the first of this run.

        value: its input, of as many rows (at least one), or of (stop − start) times as many, passes outermost. rows:
        int64 [b], the places of the rows in their request.
        """
        return applied(site, value, self.draws(site, value, start, stop, rows), len(rows))

    def draws(self, site: Site, like: Tensor, start: int, stop: int, rows: Tensor) -> Tensor:
        """The draws of a site in passes start … stop − 1, as `applied` takes them: [*pre, before, t, m, after, *post].

        like: of the shape of its input, of any number of rows, with its type and device; no value of it is read. rows:
        as in `apply`. m is 1 for shared masks, and else b. Noise on weights has the shape of one pass of it, the first.
        """
        shape, drawn = mask_shape(site, like)
        if site.rows is None:
            return self._shared(site, like, drawn, start, stop).reshape(-1, *shape)[0]
        axis = site.rows.axis
        if self._options.masks == "shared":
            draws = self._shared(site, like, drawn, start, stop).reshape(-1, *shape)
            return draws.movedim(0, axis + 1).unsqueeze(axis + 2)
        own = self._words(site, like, drawn, self._passes[start:stop], rows)
        return _drawn(site, like, own).reshape(-1, len(rows), *shape).movedim((0, 1), (axis + 1, axis + 2))

    def kept(self, site: Site, value: Tensor, start: int, stop: int) -> Tensor:
        """Which units a shared dropout keeps, bool [t, *shape]."""
        shape, drawn = mask_shape(site, value)
        return self._shared(site, value, drawn, start, stop).reshape(-1, *shape) != 0

    def _shared(self, site: Site, value: Tensor, drawn: tuple[int, ...], start: int, stop: int) -> Tensor:
        """The draws of some passes, [t, …]."""
        key = (site.index, drawn)
        if key not in self._kept:
            self._kept[key] = self._make(site, value, drawn)
        if not self._coded(site):
            return self._kept[key][start:stop]
        first = self._passes.start % BLOCK
        table = _table(site.kind, site.rate, value.dtype, value.device)
        parts = [
            table[max(first + start - at, 0) : first + stop - at].index_select(1, self._kept[key][at // BLOCK])
            for at in range((first + start) // BLOCK * BLOCK, first + stop, BLOCK)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _make(self, site: Site, value: Tensor, drawn: tuple[int, ...]) -> Tensor:
        if not self._coded(site):
            return _drawn(site, value, self._words(site, value, drawn, self._passes, None))
        blocks = range(self._passes.start // BLOCK, -(-self._passes.stop // BLOCK))
        permutation, place = block_words(self._options.seed, site.index, blocks, drawn, device=value.device)
        return columns(permutation, place, drop_threshold(site.rate)).reshape(len(blocks), -1)

    def _coded(self, site: Site) -> bool:
        return self._options.sampling == "balanced" and NOISE_KINDS[site.kind].rated

    def _words(self, site: Site, value: Tensor, drawn: tuple[int, ...], passes: range, rows: Tensor | None) -> Tensor:
        if self._options.sampling == "balanced":
            return balanced_words(self._options.seed, site.index, passes, drawn, rows=rows, device=value.device)
        numbers = torch.arange(passes.start, passes.stop, device=value.device)
        return words(self._options.seed, site.index, numbers, drawn, rows=rows)


def applied(site: Site, value: Tensor, draws: Tensor, num_rows: int | torch.SymInt) -> Tensor:
    """The value of a site, given its draws as `Masks.draws` makes them.

    value: its input, of num_rows rows or of a multiple of them, passes outermost.
    """
    apply = NOISE_KINDS[site.kind].apply
    if site.rows is None:
        return apply(value, draws, site.rate)
    axis, before, after = site.rows.axis, site.rows.before, site.rows.after
    passes: Tensor = value.unflatten(axis, (before, -1, num_rows, after))
    return apply(passes, draws, site.rate).flatten(axis, axis + 3)


def quiet(site: Site, value: Tensor) -> Tensor:
    """The value of a site with its noise off."""
    return NOISE_KINDS[site.kind].quiet(value, site.rate)


def num_units(site: Site, value: Tensor) -> int:
    """How many draws one pass of a site takes."""
    return math.prod(mask_shape(site, value)[1])


def mask_shape(site: Site, value: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of one pass of a mask, [*pre, before, after, *post], and the coordinates it is drawn over.

    A feature dropout draws over the first two axes only. The rows' own axis is no coordinate: rows share a mask. How
    many coordinates a site has does not depend on sizes (a fold of 1 is no fold), so that a longer sequence contains a
    shorter one's mask.
    """
    sizes = [(size, axis < 2 or not NOISE_KINDS[site.kind].per_channel) for axis, size in enumerate(value.shape)]
    if site.rows is not None:
        sizes[site.rows.axis : site.rows.axis + 1] = _folds(site.rows)
    shape = tuple(size if drawn else 1 for size, drawn in sizes)
    return shape, tuple(size for size, drawn in sizes if drawn)


def _folds(rows: RowAxis) -> list[tuple[int, bool]]:
    return [(rows.before, rows.before > 1), (rows.after, rows.after > 1)]


def _drawn(site: Site, value: Tensor, drawn: Tensor) -> Tensor:
    return NOISE_KINDS[site.kind].draw(drawn, site.rate, value.dtype)


@lru_cache(maxsize=256)
def _table(kind: str, rate: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The draws of sixteen passes for each column that a unit can have, [16, 480]."""
    return NOISE_KINDS[kind].draw(table_words(), rate, dtype).to(device)
