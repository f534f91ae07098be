"""Chunks of passes folded into statistics, and which of their rows need more passes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dropout_core.balanced import BLOCK
from dropout_core.errors import InvalidInput
from dropout_core.mc.engine import Chunk
from dropout_core.mc.measures import Kind
from dropout_core.mc.moments import Moments, Statistics, concatenate, merge, moments_of, rows_of
from dropout_core.mc.precision import BLOCKS, CLUSTERS, Tolerance, precise
from dropout_core.mc.scheme import Scheme

_DRAWN = ("value", "aleatoric")


@dataclass
class _Rows:
    """The rows of one chunk index: their places among all rows, and what is folded of them."""

    places: Tensor
    passes: int = 0
    statistics: Statistics = field(default_factory=dict)
    begun: dict[str, Tensor] = field(default_factory=dict)
    draws: list[Mapping[str, Tensor]] = field(default_factory=list)


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
        self._kind, self._keep_draws = kind, keep_draws
        self._block = BLOCK * scheme.branches  # passes whose mean is independent of the next ones'
        correlated = BLOCKS if scheme.sampling == "balanced" else ""
        self._correlated = CLUSTERS if scheme.branches > 1 else correlated
        self._tolerance, self._min_passes = tolerance, min_passes
        self._rows: dict[int, _Rows] = {}
        self._finished: list[tuple[Tensor, Statistics]] = []
        self._num_rows = 0

    def add(self, chunk: Chunk) -> None:
        """Fold some passes of some rows."""
        values = self._kind.values(_columns(chunk.outputs))
        num_passes, num_rows = chunk.outputs.shape[:2]
        if chunk.index not in self._rows:
            places = torch.arange(self._num_rows, self._num_rows + num_rows, device=chunk.outputs.device)
            self._rows[chunk.index] = _Rows(places)
            self._num_rows += num_rows
        rows = self._rows[chunk.index]
        moments = {**moments_of(values), **self._blocks(rows, values)}
        rows.statistics = merge(rows.statistics, moments) if rows.statistics else moments
        rows.passes += num_passes
        if self._keep_draws:
            rows.draws.append({name: values[name] for name in _DRAWN if name in values})

    def wanted(self, index: int) -> Tensor | None:
        """Which of the rows of an index, as the last chunk had them, need more passes; None for all of them."""
        rows = self._rows.get(index)
        if rows is None or self._tolerance is None or rows.passes < self._min_passes or not len(rows.places):
            return None
        done = precise(rows.statistics, self._tolerance)
        if not bool(done.any()):
            return None
        self._finished.append((rows.places[done], rows_of(rows.statistics, done)))
        wanted = ~done
        begun = {name: value[wanted] for name, value in rows.begun.items()}
        self._rows[index] = _Rows(rows.places[wanted], rows.passes, rows_of(rows.statistics, wanted), begun)
        return wanted

    def statistics(self) -> Statistics:
        """Of all rows, in order."""
        parts = [*self._finished, *((rows.places, rows.statistics) for rows in self._rows.values())]
        joined = concatenate([statistics for _, statistics in parts])
        if not self._finished:
            return joined
        return rows_of(joined, torch.cat([places for places, _ in parts]).argsort())

    def draws(self) -> Mapping[str, Tensor]:
        """All passes of all rows, [T, B, C], where they were kept."""
        if not self._keep_draws:
            return {}
        by_rows = [
            {name: torch.cat([part[name] for part in rows.draws]) for name in rows.draws[0]}
            for rows in self._rows.values()
        ]
        return {name: torch.cat([draws[name] for draws in by_rows], dim=1) for name in by_rows[0]}

    def _blocks(self, rows: _Rows, values: Mapping[str, Tensor]) -> Statistics:
        """The moments, over the blocks of passes that these complete, of what is estimated in each."""
        means = _completed(rows, values, self._block)
        found = {self._correlated + "value": means["value"]} if self._correlated else {}
        if "mutual_information" in self._kind.measures:
            single = {name: Moments(1, mean, torch.zeros_like(mean)) for name, mean in means.items()}
            found[BLOCKS + "mutual_information"] = self._kind.measures["mutual_information"](single)
        return {name: _moments_of_blocks(value) for name, value in found.items()}


def _completed(rows: _Rows, values: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    """The means [n, b, …] of the blocks that some passes complete. The sums of a block begun are kept in `rows`."""
    num_passes = len(values["value"])
    head = min(-rows.passes % block, num_passes)
    whole = (num_passes - head) // block * block
    means = {}
    for name in ("value", "entropy"):
        if name not in values:
            continue
        begun, body, tail = values[name].split([head, whole, num_passes - head - whole])
        means[name] = body.unflatten(0, (-1, block)).mean(1)
        opened = rows.begun.get(name, 0.0) + begun.sum(0)
        if head and (rows.passes + head) % block == 0:
            means[name] = torch.cat([opened.unsqueeze(0) / block, means[name]])
            opened = torch.zeros_like(opened)
        rows.begun[name] = opened + tail.sum(0)
    return means


def _moments_of_blocks(values: Tensor) -> Moments:
    if len(values):
        return Moments.of(values)
    nothing = values.new_zeros(values.shape[1:])
    return Moments(0, nothing, nothing)


def _columns(outputs: Tensor) -> Tensor:
    """[t, b, C] from a network's outputs [t, b] or [t, b, C], detached from its run."""
    if outputs.dim() == 2:
        outputs = outputs.unsqueeze(-1)
    if outputs.dim() != 3:
        raise InvalidInput(
            f"the network answers {tuple(outputs.shape[2:])} for each row; return one number for each row, or one list."
        )
    return outputs.to(dtype=torch.float64, copy=True)
