"""Chunks of passes folded into statistics, and which of their rows need more passes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dropout_core.balanced import BLOCK
from dropout_core.mc.engine import Chunk
from dropout_core.mc.folded import FoldedRows, Folding
from dropout_core.mc.measures import Kind
from dropout_core.mc.moments import Statistics, concatenate, rows_of
from dropout_core.mc.precision import BLOCKS, CLUSTERS, Tolerance, precise
from dropout_core.mc.scheme import Scheme


class Fold:
    """Folds the chunks of one run. Chunks of one index hold the same rows, and their passes come in order.

    scheme: how the passes drew their noise. keep_draws: hold all numbers too. tolerance: the standard errors at which a
    row needs no more passes, from min_passes on.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        scheme: Scheme | None = None,
        keep_draws: bool = False,
        tolerance: Tolerance | None = None,
        min_passes: int = 1,
    ) -> None:
        scheme = scheme or Scheme()
        correlated = BLOCKS if scheme.sampling == "balanced" else ""
        correlated = CLUSTERS if scheme.branches > 1 else correlated
        self._folding = Folding(kind, BLOCK * scheme.branches, correlated, keep_draws)
        self._tolerance, self._min_passes = tolerance, min_passes
        self._rows: dict[int, FoldedRows] = {}
        self._finished: list[tuple[Tensor, Statistics]] = []
        self._num_rows = 0

    def add(self, chunk: Chunk) -> None:
        """Fold some passes of some rows."""
        outputs = chunk.outputs if chunk.outputs.dim() > 2 else chunk.outputs.unsqueeze(-1)
        num_rows, device = outputs.shape[1], outputs.device
        if chunk.index not in self._rows:
            places = torch.arange(self._num_rows, self._num_rows + num_rows, device=device)
            self._rows[chunk.index] = FoldedRows(places, tuple(outputs.shape[2:-1]))
            self._num_rows += num_rows
        self._rows[chunk.index].add(self._folding, outputs)

    def wanted(self, index: int) -> Tensor | None:
        """Which of the rows of an index, as the last chunk had them, need more passes; None for all of them."""
        rows = self._rows.get(index)
        if rows is None or self._tolerance is None or rows.passes < self._min_passes or not len(rows.places):
            return None
        statistics = rows.statistics
        done = precise(statistics, self._tolerance)
        if not bool(done.any()):
            return None
        self._finished.append((rows.places[done], rows_of(statistics, done)))
        self._rows[index] = rows.of(~done)
        return ~done

    def statistics(self) -> Statistics:
        """Of all rows, in order."""
        parts = [*self._finished, *((rows.places, rows.statistics) for rows in self._rows.values())]
        joined = concatenate([statistics for _, statistics in parts])
        if not self._finished:
            return joined
        return rows_of(joined, torch.cat([places for places, _ in parts]).argsort())

    def draws(self) -> Mapping[str, Tensor]:
        """All passes of all rows, [T, B, *P, C], where they were kept."""
        if not self._folding.keep_draws:
            return {}
        by_rows = [rows.draws for rows in self._rows.values()]
        return {name: torch.cat([draws[name] for draws in by_rows], dim=1) for name in by_rows[0]}
