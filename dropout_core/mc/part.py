"""A part of a network's noisy half: as it stands, and with its chains thinned."""

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from dropout_core.mc.boundary import Boundary, repeat
from dropout_core.mc.chunks import Observed
from dropout_core.mc.gates import gates_of, without
from dropout_core.mc.network import Group, Part
from dropout_core.mc.program import ROWS, Node, Operation, Site, Stage, references
from dropout_core.mc.thin import Chain, run, with_chains

_MAX_COMPILED = 64


class StagedPart(Part):
    """Nodes that run for several passes at once, and the names of what is kept of them."""

    def __init__(
        self, nodes: tuple[Node, ...], keep: Iterable[str], weights: Collection[str], observed: Observed
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
        self, weights: Mapping[str, Tensor], boundary: Boundary, group: Group, start: int, stop: int
    ) -> dict[str, Tensor]:
        """What is kept of passes start … stop − 1, counted from the group's first, [t·b] rows, passes outermost.

        boundary: values of the rows alone, or of some passes of them, each standing for as many passes in a row.
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
        """A value once for each pass, unless only sites read it: they spread what they read themselves."""
        where = boundary.layout[name]
        held = 1 if where is None else value.shape[where.axis] // (where.before * boundary.num_rows * where.after)
        if held == passes or (held == 1 and name not in compiled.tiled):
            return value
        return repeat(value, where, passes // held, boundary.num_rows)


class _Compiled:
    """The nodes as a stage, and the values that need a copy for each pass."""

    def __init__(self, nodes: tuple[Any, ...], keep: tuple[str, ...]) -> None:
        self.stage = Stage(nodes, keep)
        self.tiled = {*keep, *(name for node in nodes if isinstance(node, Operation) for name in references(node))}
