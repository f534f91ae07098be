"""Folding chunks of passes into statistics, and deciding which rows need more passes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dropout_core.engine.engine import Chunk
from dropout_core.engine.options import PassOptions
from dropout_core.measures.measures import OutputMeasures
from dropout_core.measures.moments import Moments, Statistics, concatenate, merge, moments_of, rows_of
from dropout_core.measures.precision import BLOCKS, CLUSTERS, precise
from dropout_core.noise.limits import BLOCK

_INDEPENDENT = PassOptions(sampling="iid")


class Fold:
    """Folds the chunks of one run. Chunks of one index hold the same rows, and their passes come in order.

    Args:
        kind: What the outputs are, and which moments are kept of them.
        options: The options of the passes: how they draw, and the tolerance at which a row needs no more of them. By
            default independent passes without a tolerance.
        keep_draws: Whether to hold the outputs of all passes too.
    """

    def __init__(
        self,
        kind: OutputMeasures,
        *,
        options: PassOptions = _INDEPENDENT,
        keep_draws: bool = False,
    ) -> None:
        correlated = BLOCKS if options.sampling == "balanced" else ""
        correlated = CLUSTERS if options.branches > 1 else correlated
        self._folding = Folding(kind, BLOCK * options.branches, correlated, keep_draws)
        self._tolerance, self._min_passes = options.tolerance, options.min_passes
        self._rows: dict[int, FoldedRows] = {}
        self._finished: list[tuple[Tensor, Statistics]] = []
        self._num_rows = 0

    def add(self, chunk: Chunk) -> None:
        """Fold some passes of some rows.

        Args:
            chunk: The outputs of the passes.
        """
        outputs = chunk.outputs if chunk.outputs.dim() > 2 else chunk.outputs.unsqueeze(-1)
        num_rows, device = outputs.shape[1], outputs.device
        if chunk.index not in self._rows:
            places = torch.arange(self._num_rows, self._num_rows + num_rows, device=device)
            self._rows[chunk.index] = FoldedRows(places, tuple(outputs.shape[2:-1]))
            self._num_rows += num_rows
        self._rows[chunk.index].add(self._folding, outputs)

    def wanted(self, index: int) -> Tensor | None:
        """Return which rows need more passes.

        Args:
            index: Index of a chunk.

        Returns:
            bool for each row of the last chunk with this index, or None for all rows.
        """
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
        """Return the statistics of all rows, in order."""
        parts = [*self._finished, *((rows.places, rows.statistics) for rows in self._rows.values())]
        joined = concatenate([statistics for _, statistics in parts])
        if not self._finished:
            return joined
        return rows_of(joined, torch.cat([places for places, _ in parts]).argsort())

    def draws(self) -> Mapping[str, Tensor]:
        """Return all passes of all rows, [T, B, *P, C] by name, if they were kept."""
        if not self._folding.keep_draws:
            return {}
        by_rows = [rows.draws for rows in self._rows.values()]
        return {name: torch.cat([draws[name] for draws in by_rows], dim=1) for name in by_rows[0]}


_PIECE_NUMBERS = {"cpu": 2**17, "cuda": 2**25}
_DRAWN = ("value", "aleatoric")


@dataclass(frozen=True)
class Folding:
    """What is kept of passes.

    Attributes:
        kind: The kind of output.
        block: Number of passes whose mean is independent of the next ones'.
        correlated: Prefix of the moments over such means, if the passes of a block are not independent.
        keep_draws: Whether to hold all outputs too.
    """

    kind: OutputMeasures
    block: int
    correlated: str
    keep_draws: bool


@dataclass
class _Held:
    """The fold of some positions [n, …]: the moments of their passes, and the sums of an unfinished block."""

    statistics: Statistics = field(default_factory=dict)
    begun: dict[str, Tensor] = field(default_factory=dict)

    def of(self, wanted: slice | Tensor) -> "_Held":
        """Return the fold of some positions; a slice gives views."""
        begun = {name: sums[wanted] for name, sums in self.begun.items()}
        return _Held(rows_of(self.statistics, wanted), begun)

    def after(self, folding: Folding, values: Mapping[str, Tensor], passes: int) -> "_Held":
        """Return the fold after adding `values`; `passes` were folded before."""
        begun = dict(self.begun)
        moments: Statistics = {**moments_of(values), **_of_blocks(folding, begun, values, passes)}
        return _Held(merge(self.statistics, moments) if self.statistics else moments, begun)

    def put(self, piece: slice, part: "_Held", count: int) -> "_Held":
        """Write `part`, the fold of the positions `piece`, back into the whole of length `count`."""
        statistics, begun = dict(self.statistics), dict(self.begun)
        for name, moments in part.statistics.items():
            mean, m2 = (statistics[name].mean, statistics[name].m2) if name in statistics else (None, None)
            mean, m2 = _put(mean, moments.mean, piece, count), _put(m2, moments.m2, piece, count)
            statistics[name] = Moments(moments.count, mean, m2)
        for name, sums in part.begun.items():
            begun[name] = _put(begun.get(name), sums, piece, count)
        return _Held(statistics, begun)


@dataclass
class FoldedRows:
    """Some rows and the fold of their passes.

    Attributes:
        places: Positions of the rows among all rows.
        positions: Shape of the output's positions.
        passes: Number of passes folded so far.
    """

    places: Tensor
    positions: tuple[int, ...]
    passes: int = 0
    _held: _Held = field(default_factory=_Held)
    _draws: list[Mapping[str, Tensor]] = field(default_factory=list)

    def add(self, folding: Folding, outputs: Tensor) -> None:
        """Fold the outputs of some passes.

        Args:
            folding: What is kept.
            outputs: [t, b, *P, C].
        """
        numbers = outputs.flatten(1, -2)
        pieces, held = _pieces(numbers), self._held
        drawn = []
        for piece in pieces:
            before, part = (self._held.of(piece), numbers[:, piece]) if len(pieces) > 1 else (self._held, numbers)
            values = folding.kind.values(part.to(dtype=torch.float64, copy=True))  # detached from its run
            after = before.after(folding, values, self.passes)
            held = held.put(piece, after, numbers.shape[1]) if len(pieces) > 1 else after
            drawn.append({name: values[name] for name in _DRAWN if name in values and folding.keep_draws})
        if folding.keep_draws:
            self._draws.append({name: torch.cat([part[name] for part in drawn], dim=1) for name in drawn[0]})
        self._held = held
        self.passes += len(outputs)

    @property
    def statistics(self) -> Statistics:
        """The statistics of each row, [b, *P, …]."""
        if not self.positions:
            return self._held.statistics
        shape = (len(self.places), *self.positions)
        return {
            name: Moments(moments.count, moments.mean.unflatten(0, shape), moments.m2.unflatten(0, shape))
            for name, moments in self._held.statistics.items()
        }

    @property
    def draws(self) -> Mapping[str, Tensor]:
        """Return all kept passes, [T, b, *P, C] by name."""
        shape = (len(self.places), *self.positions)
        return {name: torch.cat([part[name] for part in self._draws]).unflatten(1, shape) for name in self._draws[0]}

    def of(self, wanted: Tensor) -> "FoldedRows":
        """Return the fold of some rows; the kept passes are left out.

        Args:
            wanted: A bool for each row.

        Returns:
            The fold.
        """
        every = wanted.view(-1, *[1] * len(self.positions)).expand(-1, *self.positions).flatten()
        return FoldedRows(self.places[wanted], self.positions, self.passes, self._held.of(every))


def _pieces(numbers: Tensor) -> list[slice]:
    """Return slices that cut numbers [t, n, C] into cache-sized pieces; at least one."""
    passes, count, columns = numbers.shape
    size = max(1, _PIECE_NUMBERS.get(numbers.device.type, _PIECE_NUMBERS["cuda"]) // max(1, passes * columns))
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]


def _put(whole: Tensor | None, part: Tensor, piece: slice, count: int) -> Tensor:
    """Assign `part` to `whole[piece]`, and allocate `whole` with `count` rows if it is None."""
    whole = part.new_empty((count, *part.shape[1:])) if whole is None else whole
    whole[piece] = part
    return whole


def _of_blocks(folding: Folding, begun: dict[str, Tensor], values: Mapping[str, Tensor], passes: int) -> Statistics:
    """Return the moments of block estimates, over the blocks that these passes complete."""
    means = _completed(begun, values, passes, folding.block)
    found = {folding.correlated + "value": means["value"]} if folding.correlated else {}
    if "mutual_information" in folding.kind.measures:
        single = {name: Moments(1, mean, torch.zeros_like(mean)) for name, mean in means.items()}
        found[BLOCKS + "mutual_information"] = folding.kind.measures["mutual_information"](single)
    return {name: _moments_of_blocks(value) for name, value in found.items()}


def _completed(begun: dict[str, Tensor], values: Mapping[str, Tensor], passes: int, block: int) -> dict[str, Tensor]:
    """Return the means [k, n, …] of completed blocks. `begun` keeps the sums of an unfinished block."""
    num_passes = len(values["value"])
    head = min(-passes % block, num_passes)
    whole = (num_passes - head) // block * block
    means = {}
    for name in ("value", "entropy"):
        if name not in values:
            continue
        first, body, tail = values[name].split([head, whole, num_passes - head - whole])
        means[name] = body.unflatten(0, (-1, block)).mean(1)
        opened = begun.get(name, 0.0) + first.sum(0)
        if head and (passes + head) % block == 0:
            means[name] = torch.cat([opened.unsqueeze(0) / block, means[name]])
            opened = torch.zeros_like(opened)
        begun[name] = opened + tail.sum(0)
    return means


def _moments_of_blocks(values: Tensor) -> Moments:
    if len(values):
        return Moments.of(values)
    return Moments(0, values.new_zeros(values.shape[1:]), values.new_zeros(values.shape[1:]))  # written in place, apart
