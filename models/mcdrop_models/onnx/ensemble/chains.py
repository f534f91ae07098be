"""Chains in a suffix: dropout → linear → pointwise → dropout → linear …, whose dropped units need not be computed.

The same chains as dropout_core.engine.thinning has of a Program, found among the nodes of an ONNX graph, whoever made
it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto

from mcdrop_models.onnx.graph.source import reads

# Element by element: they may run on the kept units alone, in any order of axes. Gelu and the like are made of these.
_POINTWISE = {
    "Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Greater", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Mish", "Mul", "Neg", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub",
    "Tanh", "ThresholdedRelu", "Where",
}  # fmt: skip
_MATRIX = 2  # its axes


@dataclass(frozen=True)
class Linear:
    """result = value · weight + bias, of one or two nodes.

    weight: an initializer, [n, m], or [m, n] where it is transposed. bias: an initializer, [m]; None without. shape:
    n and m.
    """

    weight: str
    bias: str | None
    result: str
    transposed: bool
    shape: tuple[int, int]


@dataclass(frozen=True)
class Link:
    """The noise of a dropout, the linear layer that alone reads it, and the pointwise nodes up to the next link.

    activated: the value that those nodes make of the layer's result.
    """

    noise: str
    linear: Linear
    pointwise: tuple[NodeProto, ...]
    activated: str


@dataclass(frozen=True)
class Chain:
    """Links one after the other. The first takes `source`, [rows, n]; the last one's layer makes `result`."""

    source: str
    links: tuple[Link, ...]

    @property
    def result(self) -> str:
        """What leaves the chain."""
        return self.links[-1].linear.result


@dataclass(frozen=True)
class _Drop:
    """Reshape · Mul · Reshape, which is what a dropout is in a suffix."""

    noise: str
    source: str
    result: str


def chains_in(graph: GraphProto, noises: Mapping[str, int]) -> list[Chain]:
    """The longest chains, in order. noises: the inputs with one keep mask for all rows, and the width of each."""
    finder = _Finder(graph, noises)
    chains: list[Chain] = []
    taken: set[str] = set()
    for node in graph.node:
        drop = finder.drop(node)
        if drop is None or drop.noise in taken:
            continue
        links = finder.links(drop)
        if links:
            taken |= {link.noise for link in links}
            chains.append(Chain(drop.source, links))
    return chains


class _Finder:
    def __init__(self, graph: GraphProto, noises: Mapping[str, int]) -> None:
        self._nodes, self._noises = graph.node, noises
        self._weights: dict[str, TensorProto] = {weight.name: weight for weight in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(reads(node)):
                self._readers.setdefault(name, []).append(node)

    def drop(self, first: NodeProto | None) -> _Drop | None:
        """The dropout that begins at a node."""
        product = self._only(first, "Reshape")
        noise = next((name for name in product.input if name in self._noises), None) if product is not None else None
        last = self._only(product, "Mul")
        if first is None or noise is None or last is None or last.op_type != "Reshape":
            return None
        if last.input[1] not in self._weights or list(self._weights[last.input[1]].dims) != [_MATRIX]:
            return None
        return _Drop(noise, first.input[0], last.output[0])

    def links(self, drop: _Drop | None) -> tuple[Link, ...]:
        """The links from a dropout on."""
        links: list[Link] = []
        while drop is not None:
            linear = self._linear(drop)
            if linear is None:
                break
            pointwise, following = self._pointwise(linear)
            activated = linear.result if following is None else following.source
            links.append(Link(drop.noise, linear, pointwise, activated))
            drop = following
        if links and links[-1].pointwise:  # what follows the last layer is not thinned
            last = links[-1]
            links[-1] = Link(last.noise, last.linear, (), last.linear.result)
        return tuple(links)

    def _only(self, node: NodeProto | None, operator: str) -> NodeProto | None:
        """The node that alone reads the result of a node of some operator."""
        if node is None or node.op_type != operator or node.domain:
            return None
        return self._only_reader(node.output[0])

    def _only_reader(self, name: str) -> NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def _linear(self, drop: _Drop) -> Linear | None:
        """The layer that alone reads a dropout."""
        node = self._only_reader(drop.result)
        if node is None or node.op_type not in {"Gemm", "MatMul"} or node.input[0] != drop.result:
            return None
        attributes = {one.name: one.i if one.name.startswith("trans") else one.f for one in node.attribute}
        transposed = bool(attributes.pop("transB", 0))
        plain = not attributes.pop("transA", 0) and all(value == 1 for value in attributes.values())
        weight = self._weights.get(node.input[1])
        if not plain or weight is None or len(weight.dims) != _MATRIX:
            return None
        width, columns = reversed(weight.dims) if transposed else weight.dims
        if width != self._noises[drop.noise]:
            return None
        bias, result = next((name for name in node.input[2:] if name), None), node.output[0]
        if node.op_type == "MatMul":
            bias, result = self._added(result, columns)
        if bias is not None and not self._is_bias(bias, columns):
            return None
        return Linear(weight.name, bias, result, transposed, (width, columns))

    def _added(self, name: str, columns: int) -> tuple[str | None, str]:
        """The bias that is added to a product, and the sum."""
        node = self._only_reader(name)
        if node is not None and node.op_type == "Add":
            for bias in node.input:
                if self._is_bias(bias, columns):
                    return bias, node.output[0]
        return None, name

    def _is_bias(self, name: str, columns: int) -> bool:
        return name in self._weights and list(self._weights[name].dims) == [columns]

    def _pointwise(self, linear: Linear) -> tuple[tuple[NodeProto, ...], _Drop | None]:
        """The pointwise nodes from a layer to the one dropout that reads what they make, and that dropout."""
        inside: list[NodeProto] = []
        values, outside = {linear.result}, []
        for node in self._nodes:
            if values.isdisjoint(reads(node)):
                continue
            if self._is_pointwise(node, values):
                inside.append(node)
                values.add(node.output[0])
            else:
                outside.append(node)
        following = self.drop(outside[0]) if len(outside) == 1 and values.isdisjoint(self._outputs) else None
        if following is None or self._noises[following.noise] != linear.shape[1]:
            return (), None
        return tuple(inside), following

    def _is_pointwise(self, node: NodeProto, values: Iterable[str]) -> bool:
        return (
            not node.domain
            and node.op_type in _POINTWISE
            and all(name in values or self._is_scalar(name) for name in reads(node))
        )

    def _is_scalar(self, name: str) -> bool:
        return name in self._weights and list(self._weights[name].dims) in ([], [1])
