"""What an engine runs: a network's two halves, whoever computes them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from dropout_core.engine.boundary import Boundary
from dropout_core.engine.chunks import Chunks
from dropout_core.engine.gates import Gate, closed
from dropout_core.engine.masks import Masks
from dropout_core.engine.thinning import Chain, Thinned
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Graph


@dataclass(frozen=True)
class PassGroup:
    """The noise of some passes, the weights of the chains that are thinned by it, and each pass's shut gates.

    shut: empty where passes do not run one at a time.
    """

    masks: Masks
    thinned: Mapping[str, Thinned] = field(default_factory=dict)
    shut: Sequence[frozenset[str]] = ()


@dataclass(frozen=True)
class PassNoise:
    """The noise of a group of passes. Where they branch, `trunk` is that of all sites but the last ones."""

    passes: range
    trunk: PassGroup
    suffix: PassGroup


class Section:
    """What of some passes can be spared, for a part of the noisy half. Nothing, unless a subclass knows better.

    chains: what can be thinned, and the weights of it. gates: what a single draw shuts. name: of its chains, among the
    parts of one network. gated: the inputs of the sites of one draw a pass.
    """

    chains: tuple[Chain, ...] = ()
    gates: tuple[Gate, ...] = ()
    weights: Sequence[str] = ()
    name: tuple[tuple[str, int], ...] = ()
    gated: Mapping[str, Tensor] = MappingProxyType({})

    def shut(self, masks: Masks, count: int) -> list[frozenset[str]]:
        """For each of so many passes the gates that are shut."""
        return closed(self.gates, masks, self.gated, count)


@dataclass(frozen=True)
class ExecutionPlan(ABC):
    """How a network runs on inputs of some sizes: how much at once, what one row's output is, and the noisy half.

    suffix: all of it. trunk, head: what comes before its last sites, and the rest.
    """

    chunks: Chunks
    out_shape: tuple[int, ...]
    out_dtype: torch.dtype
    suffix: Section
    trunk: Section
    head: Section

    @abstractmethod
    def run(
        self, weights: Mapping[str, Tensor], boundary: Boundary, noise: PassNoise, branches: int, start: int, stop: int
    ) -> Tensor:
        """The outputs [t·b, *out] of passes start … stop − 1, counted from the first of the noise, passes outermost."""


class Network(ABC):
    """The halves of a network. One serves many threads.

    computer: who computes it, in a word. no_branches: why its passes cannot branch, or an empty string. nbytes: of
    weights of its own, beside those that it is given.
    """

    graph: Graph
    computer: str
    no_branches: str = ""
    nbytes: int = 0

    @property
    @abstractmethod
    def has_trunk(self) -> bool:
        """Whether some site comes before another."""

    @abstractmethod
    def prefix(self, weights: Mapping[str, Tensor], rows: NamedTensors, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """What the noisy half needs of some rows, at least one. sizes: of the free dimensions."""

    @abstractmethod
    def plan(
        self, weights: Mapping[str, Tensor], row: NamedTensors, sizes: Mapping[str, int], chunk_bytes: int | None
    ) -> ExecutionPlan:
        """The plan for inputs of the sizes of a row. chunk_bytes: what the largest value of a chunk may fill."""
