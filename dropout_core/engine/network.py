"""The interface between the engine and what computes a network's halves."""

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
    """The noise of some passes, and the work it spares.

    Attributes:
        masks: The noise.
        thinned: Thinned weights of chains, by name.
        shut: The closed gates of each pass; empty if passes do not run one at a time.
    """

    masks: Masks
    thinned: Mapping[str, Thinned] = field(default_factory=dict)
    shut: Sequence[frozenset[str]] = ()


@dataclass(frozen=True)
class PassNoise:
    """The noise of a group of passes.

    Attributes:
        passes: The passes.
        trunk: Noise of all sites but the last ones, if passes branch.
        suffix: Noise of the suffix, or of the head if passes branch.
    """

    passes: range
    trunk: PassGroup
    suffix: PassGroup


class Section:
    """Work that a section of the suffix can skip: thinnable chains and closable gates. The base class skips nothing.

    Attributes:
        chains: Chains that can be thinned.
        gates: Gates that one draw closes.
        weights: Names of the chains' weights.
        name: Identifies the chains among the sections of one network.
        gated: Inputs of the sites with one draw per pass.
    """

    chains: tuple[Chain, ...] = ()
    gates: tuple[Gate, ...] = ()
    weights: Sequence[str] = ()
    name: tuple[tuple[str, int], ...] = ()
    gated: Mapping[str, Tensor] = MappingProxyType({})

    def shut(self, masks: Masks, count: int) -> list[frozenset[str]]:
        """Return the closed gates of each pass.

        Args:
            masks: Noise of the passes.
            count: Number of passes.

        Returns:
            Names of sums, for each pass.
        """
        return closed(self.gates, masks, self.gated, count)


@dataclass(frozen=True)
class ExecutionPlan(ABC):
    """How a network runs on inputs of some sizes.

    Attributes:
        chunks: How much runs at once.
        out_shape: Shape of one row's output.
        out_dtype: dtype of the output.
        suffix: The whole suffix.
        trunk: The part before the last sites.
        head: The rest.
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
        """Return the outputs of some passes.

        Args:
            weights: Weights by name.
            boundary: Values of the prefix.
            noise: Noise of the group of passes.
            branches: Number of passes that share a trunk.
            start: First pass, counted from the first of the group.
            stop: Pass after the last.

        Returns:
            [t·b, *out], passes outermost.
        """


class Network(ABC):
    """The halves of a network. One instance serves many threads.

    Attributes:
        graph: The graph.
        computer: Name of what computes, such as "torch".
        no_branches: Reason why passes cannot branch, or an empty string.
        nbytes: Bytes of its own weights, in addition to those it is given.
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
        """Return what the suffix needs of some rows.

        Args:
            weights: Weights by name.
            rows: At least one row, by input.
            sizes: Sizes of the free dimensions.

        Returns:
            Values by name.
        """

    @abstractmethod
    def plan(
        self, weights: Mapping[str, Tensor], row: NamedTensors, sizes: Mapping[str, int], chunk_bytes: int | None
    ) -> ExecutionPlan:
        """Return the plan for inputs of the sizes of a row.

        Args:
            weights: Weights by name.
            row: One row, by input.
            sizes: Sizes of the free dimensions.
            chunk_bytes: Bytes that the largest value of a chunk may fill; None for the default.

        Returns:
            The plan.
        """
