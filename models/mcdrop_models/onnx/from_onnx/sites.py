"""The random operators of an ONNX graph, as sites: what each draws, and what it makes of its draws.

Dropout is on, whatever its training_mode says; seeds are the request's. A uniform or normal operator becomes a site of
standard draws, then scaled and shifted; one of a fixed shape, noise on a constant of that shape: one draw a pass.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dropout_core.errors import CaptureError, NoSite, UnknownRandomness
from dropout_core.graph.program import Ref, Site
from mcdrop_models.onnx.graph.builder import Nodes
from mcdrop_models.onnx.graph.source import Node, Source, all_nodes, graphs_in, label, reads

RANDOM = ("Dropout", "Bernoulli", "RandomUniformLike", "RandomNormalLike", "RandomUniform", "RandomNormal")
_UNKNOWN = ("Multinomial",)
# What the draws of one pass of a fixed shape may count: 1 GiB of them in float32.
_MAX_ELEMENTS = 2**28
_DEFAULT_RATIO = 0.5


def source_of(model: ModelProto) -> Source:
    """The graph of a prepared model with its sites. Raises NoSite, UnknownRandomness, CaptureError."""
    nodes = Nodes("mcdrop.site")
    finder = _Finder(model, nodes)
    for node in model.graph.node:
        _refuse_inner(node)
        finder.add(node)
    if not finder.count:
        raise NoSite(
            f"no node of the ONNX model draws random numbers; {', '.join(RANDOM)} do. Export the network in training "
            "mode, as torch.onnx.export does for model.train(), so that its dropout is kept, or give it one with "
            "mcdrop add-dropout."
        )
    weights = {weight.name: weight for weight in (*model.graph.initializer, *nodes.initializers)}
    return Source(tuple(model.graph.input), weights, tuple(finder.found), tuple(model.opset_import))


class _Finder:
    """The nodes of a graph, taken over one by one, random ones as sites."""

    def __init__(self, model: ModelProto, nodes: Nodes) -> None:
        self._nodes = nodes
        self._constants = {weight.name: weight for weight in model.graph.initializer}
        self._read = {name for node in all_nodes(model.graph) for name in reads(node)}
        self.found: list[Node] = []
        self.count = 0

    def add(self, node: NodeProto) -> None:
        """Take over a node."""
        if node.domain or node.op_type not in (*RANDOM, *_UNKNOWN):
            self._remember(node)
            self.found.append(node)
        elif node.op_type in _UNKNOWN:
            raise UnknownRandomness(f"{label(node)} draws random numbers; only {', '.join(RANDOM)} may.")
        elif node.op_type == "Dropout":
            self._dropout(node)
        elif node.op_type == "Bernoulli":
            self._bernoulli(node)
        else:
            self._spread(node)

    def _dropout(self, node: NodeProto) -> None:
        if node.output[1:] and node.output[1] in self._read:
            raise CaptureError(
                f"the mask {node.output[1]!r} of {label(node)} is used; only its first result may be, so that the mask "
                "can be an input."
            )
        ratio = self._ratio(node)
        if ratio:
            self._site("dropout", node, node.input[0], node.output[0], ratio)
        else:
            self._append("Identity", [node.input[0]], node.output[0])

    def _ratio(self, node: NodeProto) -> float:
        if len(node.input) < 2 or not node.input[1]:
            return _DEFAULT_RATIO
        if node.input[1] not in self._constants:
            raise CaptureError(f"the ratio of {label(node)} is computed; only a constant is allowed.")
        value = numpy_helper.to_array(self._constants[node.input[1]])
        ratio = float(np.asarray(value, np.float64).reshape(-1)[0]) if value.size == 1 else math.nan
        if not 0 <= ratio < 1:
            raise CaptureError(f"the ratio of {label(node)} is {value.tolist()}; 0 up to, but not, 1 is allowed.")
        # as it was before it was rounded to float32, so that a rate of 0.1 is 0.1
        return float(str(np.float32(ratio))) if value.dtype == np.float32 else ratio

    def _bernoulli(self, node: NodeProto) -> None:
        kind = _integer(node, "dtype")
        drawn = node.output[0] if kind is None else self._nodes.fresh()
        self._site("bernoulli", node, node.input[0], drawn)
        if kind is not None:
            self._append("Cast", [drawn], node.output[0], to=kind)

    def _spread(self, node: NodeProto) -> None:
        """u·(high − low) + low of a uniform draw u, z·scale + mean of a normal one."""
        uniform = "Uniform" in node.op_type
        kind = "uniform" if uniform else "normal"
        low, high = _number(node, "low", 0.0), _number(node, "high", 1.0)
        scale, shift = (high - low, low) if uniform else (_number(node, "scale", 1.0), _number(node, "mean", 0.0))
        like = self._like(node)
        if (scale, shift) == (1.0, 0.0):
            self._site(kind, node, like, node.output[0])
            return
        drawn = self._nodes.fresh()
        self._site(kind, node, like, drawn)
        scaled = self._new("Mul", [drawn, self._alike(scale, drawn)])
        self._append("Add", [scaled, self._alike(shift, drawn)], node.output[0])

    def _like(self, node: NodeProto) -> str:
        """A value of the shape and the type of what a node draws."""
        kind = _integer(node, "dtype")
        if node.op_type.endswith("Like"):
            return node.input[0] if kind is None else self._new("Cast", [node.input[0]], to=kind)
        shape = next((list(one.ints) for one in node.attribute if one.name == "shape"), [])
        if min(shape, default=1) < 0 or math.prod(shape) > _MAX_ELEMENTS:
            raise CaptureError(f"{label(node)} draws {shape} numbers; up to {_MAX_ELEMENTS} are allowed.")
        zero = helper.make_tensor("", kind or TensorProto.FLOAT, [1], [0])
        return self._new("ConstantOfShape", [self._nodes.integers(*shape)], value=zero)

    def _alike(self, number: float, name: str) -> str:
        """A constant of the type of a value."""
        return self._new("CastLike", [self._nodes.constant(np.array(number, np.float32)), name])

    def _site(self, kind: str, node: NodeProto, given: str, result: str, rate: float = 0.0) -> None:
        self.found.append(
            Site(result, self.count, kind, Ref(given), rate, module=node.name or node.output[0], where=label(node))
        )
        self.count += 1

    def _new(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        result = self._nodes.fresh()
        self._append(operator, inputs, result, **attributes)
        return result

    def _append(self, operator: str, inputs: list[str], result: str, **attributes: Any) -> None:
        self.found.append(helper.make_node(operator, inputs, [result], **attributes))

    def _remember(self, node: NodeProto) -> None:
        """Constants that are nodes, and those that are passed on, or turned into another type."""
        if node.op_type == "Constant":
            self._constants.update((node.output[0], value) for value in _values(node))
        elif node.op_type in {"Identity", "Cast"} and node.input[0] in self._constants:
            self._constants[node.output[0]] = self._constants[node.input[0]]


def _values(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.name == "value":
            yield attribute.t
        elif attribute.name == "value_float":
            yield numpy_helper.from_array(np.array(attribute.f, np.float32))


def _refuse_inner(node: NodeProto) -> None:
    for graph in graphs_in(node):
        for inner in all_nodes(graph):
            if not inner.domain and inner.op_type in (*RANDOM, *_UNKNOWN):
                raise CaptureError(
                    f"{label(inner)} draws random numbers within {label(node)}; noise may not depend on control flow. "
                    "Export the network without branches and loops around its dropout."
                )


def _integer(node: NodeProto, name: str) -> int | None:
    return next((one.i for one in node.attribute if one.name == name), None)


def _number(node: NodeProto, name: str, default: float) -> float:
    number = next((one.f for one in node.attribute if one.name == name), default)
    if not math.isfinite(number):
        raise CaptureError(f"the {name} of {label(node)} is {number}; a finite number is allowed.")
    return number
