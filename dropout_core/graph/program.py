"""Programs: networks as lists of pure operations in which every source of noise is a named site.

A Graph is structure only (frozen, comparable); a Program is a Graph with its weights. Sizes that depend on the number
of rows, or on a free dimension, are expressions that each stage evaluates: in the suffix the number of rows is t·B,
not B.
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
    """A placeholder among an operator's arguments for the device on which the Program runs."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True)
class RowAxis:
    """The axis of a value along which its rows lie.

    Attributes:
        axis: The axis; its length is before · rows · after.
        before: Factor before the rows.
        after: Factor after the rows.
    """

    axis: int
    before: int = 1
    after: int = 1


@dataclass(frozen=True)
class Input:
    """A network input, rows first.

    Attributes:
        name: Its name.
        shape: Shape of one row: sizes, and names of free dimensions.
        dtype: Its dtype.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class FreeDimension:
    """A dimension whose size differs between inputs.

    Attributes:
        name: Its name.
        least: Smallest size.
        most: Largest size; None for any.
    """

    name: str
    least: int
    most: int | None = None

    def allows(self, size: int) -> bool:
        """Return whether a size is allowed.

        Args:
            size: The size.

        Returns:
            Whether it lies between `least` and `most`.
        """
        return self.least <= size and (self.most is None or size <= self.most)

    def __str__(self) -> str:
        return f"{self.least} and more" if self.most is None else f"{self.least} … {self.most}"


@dataclass(frozen=True)
class Operation:
    """One pure operator call.

    Attributes:
        name: Name of its value.
        target: An aten overload, or GETITEM for an element of a tuple.
        args: Positional arguments.
        kwargs: Keyword arguments.
        where: Line of the user's code.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Site:
    """One place where noise enters.

    Attributes:
        name: Name of its value.
        index: Number by which its noise is drawn.
        kind: A key of NOISE_KINDS, such as "dropout": the input times a keep mask over 1 − rate.
        input: The value that it reads.
        rate: Drop probability; 0 for a kind without one.
        rows: Where the input's rows lie; None if it has none (noise on weights, one draw per pass).
        module: Path of the module that drops; empty for the whole network.
        where: Line of the user's code.
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
    """The structure of a network.

    Attributes:
        inputs: Its inputs.
        weights: Names of its weights.
        nodes: Operations and sites in the order in which they run.
        output: Name of the output.
        boundary: Values that cross from prefix to suffix, with their rows (None: equal for all rows).
        free: Dimensions that the shapes of the inputs name.
        positions: Sizes of the output's axes between its rows and its classes or targets.
    """

    inputs: tuple[Input, ...]
    weights: tuple[str, ...]
    nodes: tuple[Node, ...]
    output: str
    boundary: Mapping[str, RowAxis | None] = field(default_factory=dict)
    free: tuple[FreeDimension, ...] = ()
    positions: tuple[int | Size, ...] = ()

    def positions_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the positions of a row.

        Args:
            sizes: Number of rows and sizes of free dimensions.

        Returns:
            Sizes of the axes of positions.
        """
        return tuple(size(sizes) if isinstance(size, Size) else size for size in self.positions)

    @property
    def is_outline(self) -> bool:
        """Whether only the sites are known, because something outside computes the rest of the network."""
        known = {*self.weights, *(spec.name for spec in self.inputs), *(node.name for node in self.nodes)}
        return self.output not in known

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the order in which they run."""
        return tuple(node for node in self.nodes if isinstance(node, Site))


@dataclass(frozen=True)
class Program:
    """A graph and its weights. It is never changed, so many threads can use one Program.

    Attributes:
        graph: The graph.
        weights: Weights by name.
    """

    graph: Graph
    weights: Mapping[str, Tensor]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next((weight.device for weight in self.weights.values()), torch.device("cpu"))


def references(node: Node) -> list[str]:
    """Return the names that a node reads.

    Args:
        node: An operation or a site.

    Returns:
        Names of values.
    """
    return [*_refs(node.args), *_refs(node.kwargs)] if isinstance(node, Operation) else [node.input.name]


def size_names(tree: Any) -> set[str]:
    """Return the names that the sizes among a node's arguments depend on: ROWS and free dimensions.

    Args:
        tree: A node, or an argument of one.

    Returns:
        The names.
    """
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
