"""A Program: a network as a list of pure operations in which every source of noise is a named site.

A Graph is structure only (frozen, comparable); a Program is a Graph with its weights. Sizes that depend on the
number of rows, or on a free dimension, are expressions of it, evaluated anew in each stage: in the suffix the rows are
t·B, not B.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dropout_core.graph.sizes import Size

ROWS = "rows"
GETITEM = "getitem"


@dataclass(frozen=True)
class Ref:
    """The value of another node, an input or a weight, by name."""

    name: str


class Device:
    """Stands in an operator's arguments for the device the Program runs on."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True)
class RowAxis:
    """Where a value's rows lie: along `axis`, of length before · rows · after."""

    axis: int
    before: int = 1
    after: int = 1


@dataclass(frozen=True)
class Input:
    """A network input: rows first. `shape` is that of one row: sizes, and names of free dimensions."""

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class FreeDimension:
    """A free dimension: the sizes from `least` to `most` (None: any above)."""

    name: str
    least: int
    most: int | None = None

    def allows(self, size: int) -> bool:
        """Whether it may have a size."""
        return self.least <= size and (self.most is None or size <= self.most)

    def __str__(self) -> str:
        return f"{self.least} and more" if self.most is None else f"{self.least} … {self.most}"


@dataclass(frozen=True)
class Operation:
    """One pure operator call. `target` is an aten overload, or GETITEM for an element of a tuple result."""

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Site:
    """One place where noise enters.

    kind: a row of dropout_core.graph.noise_kinds, such as "dropout": `input` times a keep mask over 1 − rate. rate: 0
    for a kind
    without one. rows: where the input's rows lie; None when it has none (noise on weights: one draw a pass). module:
    the path of the module that drops, empty for the whole network.
    """

    name: str
    index: int
    kind: str
    input: Ref
    rate: float
    rows: RowAxis | None = None
    module: str = ""
    where: str = field(default="", compare=False)


Node = Operation | Site


@dataclass(frozen=True)
class Graph:
    """The structure of a network: inputs, nodes in the order they run, and the name of the output.

    boundary: the values that cross from prefix to suffix, with their rows (None: the same for all rows). free: the
    dimensions that the shapes of the inputs name. positions: the sizes of the axes of the output between its rows and
    its classes or targets.
    """

    inputs: tuple[Input, ...]
    weights: tuple[str, ...]
    nodes: tuple[Node, ...]
    output: str
    boundary: Mapping[str, RowAxis | None] = field(default_factory=dict)
    free: tuple[FreeDimension, ...] = ()
    positions: tuple[int | Size, ...] = ()

    def positions_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The positions of each row, for inputs of some sizes."""
        return tuple(size(sizes) if isinstance(size, Size) else size for size in self.positions)

    @property
    def is_outline(self) -> bool:
        """Whether only the sites are told: what is around them is computed by something that does not say how."""
        known = {*self.weights, *(spec.name for spec in self.inputs), *(node.name for node in self.nodes)}
        return self.output not in known

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the order they run."""
        return tuple(node for node in self.nodes if isinstance(node, Site))


@dataclass(frozen=True)
class Program:
    """A Graph and its weights. Nothing in it is ever mutated: one Program serves many threads."""

    graph: Graph
    weights: Mapping[str, Tensor]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next((weight.device for weight in self.weights.values()), torch.device("cpu"))


def references(node: Node) -> list[str]:
    """The names a node reads."""
    return [*_refs(node.args), *_refs(node.kwargs)] if isinstance(node, Operation) else [node.input.name]


def size_names(tree: Any) -> set[str]:
    """What the sizes among the arguments of a node depend on: ROWS, free dimensions."""
    if isinstance(tree, Operation):
        return size_names(tree.args) | size_names(tuple(tree.kwargs.values()))
    if isinstance(tree, Size):
        return tree.names
    return {name for item in tree for name in size_names(item)} if isinstance(tree, tuple) else set()


def _refs(tree: Any) -> list[str]:
    if isinstance(tree, Ref):
        return [tree.name]
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    return [name for item in tree for name in _refs(item)] if isinstance(tree, tuple) else []
