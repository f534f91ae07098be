"""Nodes of an ONNX graph, written one call at a time, and whole graphs taken over into another."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]


class Nodes:
    """The nodes and constants of one graph, in the order they run.

    Names begin with that of the graph, so that a loop's body hides nothing of the graph around it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of the one result of an operator."""
        return self.several(operator, inputs, 1, **attributes)[0]

    def several(self, operator: str, inputs: Iterable[str], count: int, **attributes: Any) -> list[str]:
        """The names of as many results of an operator."""
        results = [self.fresh() for _ in range(count)]
        self.nodes.append(helper.make_node(operator, list(inputs), results, **attributes))
        return results

    def fresh(self) -> str:
        """A name that nothing has yet."""
        self._count += 1
        return f"{self.name}/{self._count}"

    def constant(self, array: Array) -> str:
        """The name of a constant; equal ones are kept once."""
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.fresh()
            self.initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def integers(self, *numbers: int) -> str:
        """A constant int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def integer(self, number: int) -> str:
        """A constant int64 without axes."""
        return self.constant(np.array(number, np.int64))

    def loop(self, body: "Nodes", trips: str, results: Iterable[tuple[str, int]]) -> list[str]:
        """Run a body so often, at least once, and stack each of its results along a new first axis.

        results: names of the body's, and their element types. The body has its own number, from 0, under `trip`.
        """
        condition = body("Identity", f"{body.name}/condition")
        outputs = [helper.make_tensor_value_info(condition, TensorProto.BOOL, [])]
        outputs += [helper.make_tensor_value_info(name, kind, None) for name, kind in results]
        inputs = [
            helper.make_tensor_value_info(trip(body), TensorProto.INT64, []),
            helper.make_tensor_value_info(f"{body.name}/condition", TensorProto.BOOL, []),
        ]
        graph = helper.make_graph(body.nodes, body.name, inputs, outputs, body.initializers)
        always = self.constant(np.array(True))  # left out, it is False to onnx.reference
        return self.several("Loop", [trips, always], len(outputs) - 1, body=graph)

    def take_over(self, graph: GraphProto, prefix: str, given: Mapping[str, str], weights: "Weights") -> dict[str, str]:
        """Append the nodes of a graph, and return the names that its outputs have here.

        Names get a prefix; `given` are those of its inputs.
        """
        names = {**weights.take_over(graph, prefix), **given}
        self.nodes += [_renamed(node, prefix, names) for node in graph.node]
        return {output.name: _name(output.name, prefix, names) for output in graph.output}


class Weights:
    """Weights of graphs taken over; what two graphs share is kept once."""

    def __init__(self) -> None:
        self.initializers: list[TensorProto] = []
        self._known: dict[tuple[int, tuple[int, ...], bytes], str] = {}

    def take_over(self, graph: GraphProto, prefix: str) -> dict[str, str]:
        """The weights of a graph, by the names it has for them, under the names they have now."""
        return {weight.name: self._name(weight, prefix) for weight in graph.initializer}

    def _name(self, weight: TensorProto, prefix: str) -> str:
        key = (weight.data_type, tuple(weight.dims), numpy_helper.to_array(weight).tobytes())
        if key not in self._known:
            self._known[key] = prefix + weight.name
            kept = TensorProto()
            kept.CopyFrom(weight)
            kept.name = self._known[key]
            self.initializers.append(kept)
        return self._known[key]


def trip(body: Nodes) -> str:
    """The number of the present run of a loop's body, from 0."""
    return f"{body.name}/trip"


def _renamed(node: NodeProto, prefix: str, names: Mapping[str, str]) -> NodeProto:
    """A node under other names, with the graphs inside of it."""
    own = NodeProto()
    own.CopyFrom(node)
    own.name = ""
    own.input[:] = [_name(name, prefix, names) for name in node.input]
    own.output[:] = [_name(name, prefix, names) for name in node.output]
    for attribute in own.attribute:
        for graph in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            _rename_graph(graph, prefix, names)
    return own


def _rename_graph(graph: GraphProto, prefix: str, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = _name(value.name, prefix, names)
    del graph.value_info[:]
    nodes = [_renamed(node, prefix, names) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _name(name: str, prefix: str, names: Mapping[str, str]) -> str:
    return names.get(name, prefix + name) if name else ""
