"""A network that torch computes, operation by operation: the stages of a captured graph."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dropout_core.mc.boundary import Boundary
from dropout_core.mc.chunks import Observed, Seen
from dropout_core.mc.inputs import Named, num_rows
from dropout_core.mc.masks import quiet
from dropout_core.mc.nested import split_last
from dropout_core.mc.network import Network, Noise, Planned
from dropout_core.mc.part import StagedPart
from dropout_core.mc.program import ROWS, Graph, Node, Observer, Program, Site, Stage, split


@dataclass(frozen=True)
class StagedPlan(Planned):
    """How the stages run on inputs of some sizes."""

    output: str
    suffix: StagedPart
    trunk: StagedPart
    head: StagedPart

    def run(
        self, weights: Mapping[str, Tensor], boundary: Boundary, noise: Noise, branches: int, start: int, stop: int
    ) -> Tensor:
        """The passes; where they branch, the trunk once for all its branches."""
        if branches == 1:
            return self.suffix.run(weights, boundary, noise.suffix, start, stop)[self.output]
        first, last = start // branches, -(-stop // branches)
        trunk = self.trunk.run(weights, boundary, noise.trunk, first, last)
        boundary = replace(boundary, values={**boundary.values, **trunk})
        found = self.head.run(weights, boundary, noise.suffix, first * branches, last * branches)[self.output]
        return found[: (stop - start) * boundary.num_rows]


class StagedNetwork(Network):
    """The stages of a Program's graph, on weights given with each call."""

    computer = "torch"

    def __init__(self, program: Program) -> None:
        self.graph: Graph = program.graph
        self._split = split(program.graph)
        self._last = split_last(self._split.suffix, program.graph.output)
        self._prefix = Stage(self._split.prefix, keep=self._split.crossing)
        self._crossing = [name for name in self._split.crossing if name not in program.weights]
        self._trunk_values = {node.name for node in self._last.prefix} & set(self._last.crossing)
        if not self._trunk_values <= set(program.graph.boundary):
            self.no_branches = "this bundle was captured before passes could branch; publish the model again."

    @property
    def has_trunk(self) -> bool:
        """Whether some site comes before another."""
        return any(isinstance(node, Site) for node in self._last.prefix)

    @property
    def late(self) -> frozenset[str]:
        """The sites that reach no other one."""
        return frozenset(node.name for node in self._last.suffix if isinstance(node, Site))

    def prefix(self, weights: Mapping[str, Tensor], rows: Named, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """What crosses to the suffix."""
        return self._run_prefix(weights, rows, sizes)

    def plan(
        self, weights: Mapping[str, Tensor], row: Named, sizes: Mapping[str, int], chunk_bytes: int | None
    ) -> StagedPlan:
        """From runs of a row, alone and twice."""
        seen = self.see(weights, row, sizes)

        def part(nodes: tuple[Node, ...], keep: list[str]) -> StagedPart:
            return StagedPart(nodes, keep, weights, seen.suffix)

        whole = part(self._split.suffix, [self.graph.output])
        inside = {name for chain in whole.chains for name in chain.inside}
        return StagedPlan(
            chunks=seen.chunks(chunk_bytes, inside),
            out_shape=tuple(seen.output.shape[1:]),
            out_dtype=seen.output.dtype,
            suffix=whole,
            trunk=part(self._last.prefix, sorted(self._trunk_values)),
            head=part(self._last.suffix, [self.graph.output]),
            output=self.graph.output,
        )

    @torch.inference_mode()
    def see(self, weights: Mapping[str, Tensor], row: Named, sizes: Mapping[str, int]) -> Seen:
        """Run a row alone and twice, the noise off."""
        prefix, suffix = Observed(), Observed()
        stage = Stage(self._split.suffix, keep=[self.graph.output])
        for count in (2, 1):
            rows = {name: torch.cat([value] * count) for name, value in row.items()}
            values = self._run_prefix(weights, rows, sizes, prefix)
            given = {**weights, **values}
            if count == 2:
                suffix.given = {name: value.nbytes for name, value in values.items()}
            found = stage.run(given, {**sizes, ROWS: count}, _device(rows), suffix.noise, suffix)
        crossing_bytes = sum(values[name].nbytes for name in values if self.graph.boundary[name] is not None)
        return Seen(prefix, suffix, found[self.graph.output], crossing_bytes)

    def _run_prefix(
        self, weights: Mapping[str, Tensor], rows: Named, sizes: Mapping[str, int], observe: Observer | None = None
    ) -> dict[str, Tensor]:
        sizes = {**sizes, ROWS: num_rows(rows)}
        found = self._prefix.run({**weights, **rows}, sizes, _device(rows), quiet, observe)
        return {name: found[name] for name in self._crossing}


def _device(inputs: Named) -> torch.device:
    return next(iter(inputs.values())).device
