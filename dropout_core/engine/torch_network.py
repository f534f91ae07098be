"""A network that torch computes operation by operation: the stages of a captured graph."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dropout_core.engine.boundary import Boundary, repeat
from dropout_core.engine.chunks import Footprint, FootprintProbe
from dropout_core.engine.gates import gates_of, without
from dropout_core.engine.masks import quiet
from dropout_core.engine.network import ExecutionPlan, Network, PassGroup, PassNoise, Section
from dropout_core.engine.thinning import Chain, run, with_chains
from dropout_core.graph.inputs import NamedTensors, num_rows
from dropout_core.graph.program import ROWS, Graph, Node, Operation, Program, Site, references
from dropout_core.graph.split import split, split_last
from dropout_core.graph.stage import NodeObserver, Stage

_MAX_COMPILED = 64


class TorchSection(Section):
    """Nodes that run for several passes at once.

    Args:
        nodes: The nodes, in order.
        keep: Names of the values to return.
        weights: Names of weights.
        observed: Footprint of the suffix.
    """

    def __init__(
        self, nodes: tuple[Node, ...], keep: Iterable[str], weights: Collection[str], observed: Footprint
    ) -> None:
        self._keep = tuple(keep)
        chained = with_chains(nodes, self._keep, weights, observed.widths)
        self.gates = gates_of(nodes, self._keep, observed.nbytes, observed.single)
        self.gated = observed.single
        self.chains = tuple(node for node in chained if isinstance(node, Chain))
        self.weights = sorted({name for chain in self.chains for name in chain.weights})
        self.name = tuple((chain.name, len(chain.links)) for chain in self.chains)
        self._nodes = {False: nodes, True: chained}
        self._compiled = lru_cache(maxsize=_MAX_COMPILED)(self._compile)

    def run(
        self, weights: Mapping[str, Tensor], boundary: Boundary, group: PassGroup, start: int, stop: int
    ) -> dict[str, Tensor]:
        """Return the kept values of some passes.

        Args:
            weights: Weights by name.
            boundary: Prefix values [b, …], or trunk values [t₀·b, …] where each of t₀ trunk passes serves several
                consecutive passes.
            group: Noise of the group of passes.
            start: First pass, counted from the first of the group.
            stop: Pass after the last.

        Returns:
            Values of t·b rows by name, passes outermost.
        """
        passes = stop - start
        shut = group.shut[start] if group.shut and passes == 1 else frozenset[str]()
        compiled = self._compiled(bool(group.thinned), shut)
        values: dict[str, Any] = dict(weights)
        for name, value in boundary.values.items():
            values[name] = self._spread(compiled, boundary, name, value, passes)

        def noise(node: Site | Chain, value: Tensor) -> Tensor:
            if isinstance(node, Chain):
                return run(node, group.thinned[node.name], value, start, stop, boundary.num_rows)
            return group.masks.apply(node, value, start, stop, boundary.places)

        sizes = {**boundary.sizes, ROWS: passes * boundary.num_rows}
        found = compiled.stage.run(values, sizes, boundary.device, noise)
        return {name: found[name] for name in self._keep}

    def _compile(self, thin: bool, shut: frozenset[str]) -> "_Compiled":
        nodes = self._nodes[thin]
        return _Compiled(without(nodes, self._keep, self.gates, shut) if shut else nodes, self._keep)

    @staticmethod
    def _spread(compiled: "_Compiled", boundary: Boundary, name: str, value: Tensor, passes: int) -> Tensor:
        """Copy a value once per pass, unless only sites read it: they repeat their inputs themselves."""
        where = boundary.layout[name]
        held = 1 if where is None else value.shape[where.axis] // (where.before * boundary.num_rows * where.after)
        if held == passes or (held == 1 and name not in compiled.tiled):
            return value
        return repeat(value, where, passes // held, boundary.num_rows)


class _Compiled:
    """The nodes as a stage, and the names of the values that need a copy for each pass."""

    def __init__(self, nodes: tuple[Any, ...], keep: tuple[str, ...]) -> None:
        self.stage = Stage(nodes, keep)
        self.tiled = {*keep, *(name for node in nodes if isinstance(node, Operation) for name in references(node))}


@dataclass(frozen=True)
class TorchPlan(ExecutionPlan):
    """How the stages run on inputs of some sizes.

    Attributes:
        output: Name of the output.
    """

    output: str
    suffix: TorchSection
    trunk: TorchSection
    head: TorchSection

    def run(
        self, weights: Mapping[str, Tensor], boundary: Boundary, noise: PassNoise, branches: int, start: int, stop: int
    ) -> Tensor:
        """Run the passes; if they branch, the trunk runs once for all its branches."""
        if branches == 1:
            return self.suffix.run(weights, boundary, noise.suffix, start, stop)[self.output]
        first, last = start // branches, -(-stop // branches)
        trunk = self.trunk.run(weights, boundary, noise.trunk, first, last)
        boundary = replace(boundary, values={**boundary.values, **trunk})
        found = self.head.run(weights, boundary, noise.suffix, first * branches, last * branches)[self.output]
        return found[: (stop - start) * boundary.num_rows]


class TorchNetwork(Network):
    """The stages of a program's graph, on weights that are given with each call.

    Args:
        program: The program.
    """

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
        """The names of the sites that reach no other site."""
        return frozenset(node.name for node in self._last.suffix if isinstance(node, Site))

    def prefix(self, weights: Mapping[str, Tensor], rows: NamedTensors, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the values that cross to the suffix."""
        return self._run_prefix(weights, rows, sizes)

    def plan(
        self, weights: Mapping[str, Tensor], row: NamedTensors, sizes: Mapping[str, int], chunk_bytes: int | None
    ) -> TorchPlan:
        """Measure a plan by running a row alone and twice."""
        seen = self.see(weights, row, sizes)

        def part(nodes: tuple[Node, ...], keep: list[str]) -> TorchSection:
            return TorchSection(nodes, keep, weights, seen.suffix)

        whole = part(self._split.suffix, [self.graph.output])
        inside = {name for chain in whole.chains for name in chain.inside}
        return TorchPlan(
            chunks=seen.chunks(chunk_bytes, inside),
            out_shape=tuple(seen.output.shape[1:]),
            out_dtype=seen.output.dtype,
            suffix=whole,
            trunk=part(self._last.prefix, sorted(self._trunk_values)),
            head=part(self._last.suffix, [self.graph.output]),
            output=self.graph.output,
        )

    @torch.inference_mode()
    def see(self, weights: Mapping[str, Tensor], row: NamedTensors, sizes: Mapping[str, int]) -> FootprintProbe:
        """Run a row alone and twice with the noise off.

        Args:
            weights: Weights by name.
            row: One row, by input.
            sizes: Sizes of the free dimensions.

        Returns:
            The footprint of the network.
        """
        prefix, suffix = Footprint(), Footprint()
        stage = Stage(self._split.suffix, keep=[self.graph.output])
        for count in (2, 1):
            rows = {name: torch.cat([value] * count) for name, value in row.items()}
            values = self._run_prefix(weights, rows, sizes, prefix)
            given = {**weights, **values}
            if count == 2:
                suffix.given = {name: value.nbytes for name, value in values.items()}
            found = stage.run(given, {**sizes, ROWS: count}, _device(rows), suffix.noise, suffix)
        crossing_bytes = sum(values[name].nbytes for name in values if self.graph.boundary[name] is not None)
        return FootprintProbe(prefix, suffix, found[self.graph.output], crossing_bytes)

    def _run_prefix(
        self,
        weights: Mapping[str, Tensor],
        rows: NamedTensors,
        sizes: Mapping[str, int],
        observe: NodeObserver | None = None,
    ) -> dict[str, Tensor]:
        sizes = {**sizes, ROWS: num_rows(rows)}
        found = self._prefix.run({**weights, **rows}, sizes, _device(rows), quiet, observe)
        return {name: found[name] for name in self._crossing}


def _device(inputs: NamedTensors) -> torch.device:
    return next(iter(inputs.values())).device
