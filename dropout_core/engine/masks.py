"""Masks: the noise of some passes, site by site, and what sites compute with it."""

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
    """The noise of a run of passes, made when a site first needs it and kept for its other rows.

    Sixteen shared, balanced passes of a unit are kept as one number; independent noise is not kept.

    Args:
        options: How the passes draw.
        passes: The passes.
    """

    def __init__(self, options: PassOptions, passes: range) -> None:
        self._options, self._passes = options, passes
        self._kept: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    @property
    def nbytes(self) -> int:
        """The bytes held."""
        return sum(kept.nbytes for kept in list(self._kept.values()))

    def apply(self, site: Site, value: Tensor, start: int, stop: int, rows: Tensor) -> Tensor:
        """Return the value of a site in some passes.

        Args:
            site: The site.
            value: Its input, of b ≥ 1 rows or of (stop − start) · b rows, passes outermost.
            start: First pass, counted from the first of this run.
            stop: Pass after the last.
            rows: int64 [b], the position of each row in its request.

        Returns:
            The value of (stop − start) · b rows, passes outermost.
        """
        return applied(site, value, self.draws(site, value, start, stop, rows), len(rows))

    def draws(self, site: Site, like: Tensor, start: int, stop: int, rows: Tensor) -> Tensor:
        """Return the draws of a site in some passes, as `applied` takes them.

        Args:
            site: The site.
            like: A tensor in the shape of its input, with any number of rows, whose dtype and device count; its values
                are not read.
            start: First pass, counted from the first of this run.
            stop: Pass after the last.
            rows: int64 [b], the position of each row in its request.

        Returns:
            [*pre, before, t, m, after, *post], where m is 1 for shared masks and b otherwise. Noise on weights has the
            shape of one pass, the first.
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
        """Return which units a shared dropout keeps.

        Args:
            site: The site.
            value: Its input.
            start: First pass, counted from the first of this run.
            stop: Pass after the last.

        Returns:
            bool [t, *shape].
        """
        shape, drawn = mask_shape(site, value)
        return self._shared(site, value, drawn, start, stop).reshape(-1, *shape) != 0

    def _shared(self, site: Site, value: Tensor, drawn: tuple[int, ...], start: int, stop: int) -> Tensor:
        """Return the draws of some passes, [t, …]."""
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
    """Return the value of a site, given its draws as `Masks.draws` makes them.

    Args:
        site: The site.
        value: Its input, of num_rows rows or of a multiple, passes outermost.
        draws: The draws.
        num_rows: Number of rows.

    Returns:
        The value.
    """
    apply = NOISE_KINDS[site.kind].apply
    if site.rows is None:
        return apply(value, draws, site.rate)
    axis, before, after = site.rows.axis, site.rows.before, site.rows.after
    passes: Tensor = value.unflatten(axis, (before, -1, num_rows, after))
    return apply(passes, draws, site.rate).flatten(axis, axis + 3)


def quiet(site: Site, value: Tensor) -> Tensor:
    """Return the value of a site with its noise off.

    Args:
        site: The site.
        value: Its input.

    Returns:
        The value.
    """
    return NOISE_KINDS[site.kind].quiet(value, site.rate)


def num_units(site: Site, value: Tensor) -> int:
    """Return how many draws one pass of a site takes.

    Args:
        site: The site.
        value: Its input.

    Returns:
        The number.
    """
    return math.prod(mask_shape(site, value)[1])


def mask_shape(site: Site, value: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of one pass of a mask, and the coordinates over which it is drawn.

    A feature dropout draws over the first two axes only. The row axis is not a coordinate, because rows share a mask.
    The number of coordinates does not depend on sizes (a factor of 1 does not count), so the mask of a longer sequence
    contains that of a shorter one.

    Args:
        site: The site.
        value: Its input.

    Returns:
        The shape [*pre, before, after, *post], and the shape of the coordinates.
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
    """Return the draws of sixteen passes for each column that a unit can have, [16, 480]."""
    return NOISE_KINDS[kind].draw(table_words(), rate, dtype).to(device)
