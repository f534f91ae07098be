"""Thinned passes: units that a shared mask drops are not computed.

A chain is dropout → linear → pointwise → dropout → linear …. Where one mask serves all rows of a pass, the dropped
units of a layer are rows and columns of its weight that can be left out. Each pass gets the kept ones, padded with
zero columns to the largest number that any pass of its group keeps, so that all passes run as one batched product.
This is exact for Bernoulli masks; results differ from dense ones by rounding only.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dropout_core.engine.masks import Masks
from dropout_core.graph.program import Node, Operation, Ref, RowAxis, Site, references

_aten = torch.ops.aten
# Of one value, element by element: they may run on the kept units alone, in any order of axes.
_POINTWISE = {
    _aten.relu.default,
    _aten.gelu.default,
    _aten.silu.default,
    _aten.elu.default,
    _aten.leaky_relu.default,
    _aten.tanh.default,
    _aten.sigmoid.default,
}


@dataclass(frozen=True)
class Link:
    """A dropout, the linear layer that alone reads it, and the pointwise operations up to the next link.

    Attributes:
        site: The dropout.
        linear: The linear layer.
        pointwise: The operations after it.
    """

    site: Site
    linear: Operation
    pointwise: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class Chain:
    """Consecutive links as one node.

    Attributes:
        name: Name of its last layer.
        input: The value that it reads.
        links: The links.
    """

    name: str
    input: Ref
    links: tuple[Link, ...]

    @property
    def inside(self) -> set[str]:
        """The thinned values: all but the last layer's."""
        layers = [operation.name for link in self.links for operation in (link.linear, *link.pointwise)]
        return {*(link.site.name for link in self.links), *layers} - {self.name}

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that it reads."""
        return tuple(name for link in self.links for name in references(link.linear)[1:])


def with_chains(
    nodes: tuple[Node, ...], keep: Collection[str], weights: Collection[str], widths: Mapping[str, int]
) -> tuple[Any, ...]:
    """Return nodes with chains in place of the nodes that they contain.

    Args:
        nodes: The nodes, in order.
        keep: Names of the values that are needed afterwards.
        weights: Names of weights.
        widths: Widths of the site inputs that are matrices with a line per row.

    Returns:
        The nodes.
    """
    only = _only_readers(nodes, keep)
    result: list[Any] = []
    taken: set[str] = set()
    for node in nodes:
        if node.name in taken:
            continue
        links = _links(node, only, weights, widths)
        if not links:
            result.append(node)
            continue
        for link in links:
            taken |= {link.site.name, link.linear.name, *(operation.name for operation in link.pointwise)}
        result.append(Chain(links[-1].linear.name, links[0].site.input, tuple(links)))
    return tuple(result)


def _only_readers(nodes: tuple[Node, ...], keep: Collection[str]) -> dict[str, Node]:
    """Return the single reader of each value that has one and is not kept."""
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in references(node):
            readers.setdefault(name, []).append(node)
    return {name: found[0] for name, found in readers.items() if len(found) == 1 and name not in keep}


def _links(
    node: Node | None, only: Mapping[str, Node], weights: Collection[str], widths: Mapping[str, int]
) -> list[Link]:
    """Return the links of the longest chain that begins at a node: only the chain reads its values, except the last."""
    links: list[Link] = []
    while isinstance(node, Site) and node.kind == "dropout" and node.rows == RowAxis(0) and node.name in widths:
        linear = only.get(node.name)
        if not isinstance(linear, Operation) or not _is_linear(linear, node.name, weights):
            break
        pointwise: list[Operation] = []
        following = only.get(linear.name)
        while isinstance(following, Operation) and _is_pointwise(following):
            pointwise.append(following)
            following = only.get(following.name)
        links.append(Link(node, linear, tuple(pointwise)))
        node = following
    if links:
        links[-1] = Link(links[-1].site, links[-1].linear)  # what follows the last layer is not thinned
    return links


def _is_linear(node: Operation, name: str, weights: Collection[str]) -> bool:
    if node.target is not _aten.linear.default or node.kwargs:
        return False
    value, *given = node.args
    return value == Ref(name) and all(isinstance(arg, Ref) and arg.name in weights for arg in given if arg is not None)


def _is_pointwise(node: Operation) -> bool:
    return node.target in _POINTWISE and isinstance(node.args[0], Ref) and len(references(node)) == 1


@dataclass(frozen=True)
class Thinned:
    """A chain's weights for each pass of a group.

    Attributes:
        counts: Number of units that each pass keeps before each layer.
        kept: int64 [t, k], the kept units of the input, padded with units that are not kept.
        weights: [t, m, k] per layer, with columns scaled by 1 / (1 − rate) and those of the padding 0; the last [t, k,
            m].
        biases: [t, m, 1] per layer, the last [m].
    """

    counts: tuple[tuple[int, ...], ...]
    kept: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]

    @property
    def nbytes(self) -> int:
        """The bytes held."""
        return self.kept.nbytes + sum(value.nbytes for value in (*self.weights, *self.biases) if value is not None)


def thinned(chain: Chain, weights: Mapping[str, Tensor], masks: Masks, num_passes: int) -> Thinned:
    """Return the weights of a chain for all passes of a run.

    Args:
        chain: The chain.
        weights: Weights by name.
        masks: Noise of the run.
        num_passes: Number of passes.

    Returns:
        The thinned weights.
    """
    layers = [[weights[name] for name in references(link.linear)[1:]] for link in chain.links]
    kept = [
        masks.kept(link.site, weight[:1], 0, num_passes).flatten(1)
        for link, (weight, *_) in zip(chain.links, layers, strict=True)
    ]
    # The one question that a chain asks of the device.
    counts: list[list[int]] = torch.stack([one.sum(1) for one in kept]).tolist()
    places = [_places(one, max(count)) for one, count in zip(kept, counts, strict=True)]
    outer: list[Tensor | None] = [*places[1:], None]
    made, biases = [], []
    for number, (weight, *bias) in enumerate(layers):
        fine = torch.promote_types(weight.dtype, torch.float32)  # see dropout_core.graph.noise_kinds
        scale = _scale(kept[number], places[number].shape[1], chain.links[number].site.rate, fine)
        rows = outer[number]
        made.append(_scaled(_submatrices(weight, rows, places[number]), scale))
        biases.append(None if not bias else bias[0] if rows is None else bias[0][rows].unsqueeze(2))
    made[-1] = made[-1].transpose(1, 2).contiguous()
    return Thinned(tuple(map(tuple, counts)), places[0], tuple(made), tuple(biases))


def run(chain: Chain, thin: Thinned, value: Tensor, start: int, stop: int, num_rows: int) -> Tensor:
    """Return the last layer of a chain in some passes.

    Args:
        chain: The chain.
        thin: Its thinned weights.
        value: Input of the first site, [b, n], or [t·b, n] if passes differ there.
        start: First pass, counted from the first of the group.
        stop: Pass after the last.
        num_rows: Number of rows b.

    Returns:
        [t·b, m], passes outermost.
    """
    widths = [max(counts[start:stop]) for counts in thin.counts]  # the most that these passes keep
    x = _units(value, thin.kept[start:stop, : widths[0]], num_rows)
    for number, link in enumerate(chain.links[:-1]):
        weight, bias = thin.weights[number][start:stop, : widths[number + 1], : widths[number]], thin.biases[number]
        x = weight @ x if bias is None else torch.baddbmm(bias[start:stop, : widths[number + 1]], weight, x)
        for operation in link.pointwise:
            x = operation.target(x, *operation.args[1:], **operation.kwargs)
    out, bias = x.transpose(1, 2) @ thin.weights[-1][start:stop, : widths[-1]], thin.biases[-1]
    return (out if bias is None else out.add_(bias)).flatten(0, 1)


def _units(value: Tensor, kept: Tensor, num_rows: int) -> Tensor:
    """Return the kept units of each pass, [t, k, b]."""
    passes, count = kept.shape
    if len(value) == num_rows:
        return value.t().contiguous().index_select(0, kept.flatten()).reshape(passes, count, num_rows)
    by_pass = value.reshape(passes, num_rows, -1).transpose(1, 2)
    return by_pass.gather(1, kept.unsqueeze(2).expand(-1, -1, num_rows))


def _places(kept: Tensor, most: int) -> Tensor:
    """Return unit numbers with the kept ones first, [t, most]."""
    return kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]


def _scale(kept: Tensor, width: int, rate: float, dtype: torch.dtype) -> Tensor:
    """Return 1 / (1 − rate) for the columns of kept units and 0 for the padding, [t, 1, k]."""
    real = torch.arange(width, device=kept.device) < kept.sum(1, keepdim=True)
    return (real.to(dtype) * (1.0 / (1.0 - rate) if rate < 1 else 0.0)).unsqueeze(1)


def _submatrices(weight: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    """Return the rows and columns of a weight for each pass, [t, m, k]; rows of None means all."""
    count, width = columns.shape
    found = weight.new_empty((count, len(weight) if rows is None else rows.shape[1], width))
    for number in range(count):
        of_rows = weight if rows is None else weight.index_select(0, rows[number])
        torch.index_select(of_rows, 1, columns[number], out=found[number])
    return found


def _scaled(weights: Tensor, scale: Tensor) -> Tensor:
    return weights.mul_(scale) if scale.dtype == weights.dtype else (weights * scale).to(weights.dtype)
