"""A dropout in an ONNX graph that was trained without."""

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dropout_core.errors import InvalidInput
from mcdrop_models.onnx.from_onnx.prepare import opset_of, upgraded
from mcdrop_models.onnx.graph.checks import check, parsed
from mcdrop_models.onnx.graph.source import all_nodes, label, needed, reads, writes

HEAD = "head"
_PRODUCTS = ("Gemm", "MatMul")
_SHOWN = 20
# The first opset whose Dropout takes its ratio as an input.
_OPSET = 12
# The first version whose initializers need not be inputs as well.
_IR_VERSION = 4
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.UNDEFINED)


def add_dropout(content: bytes, before: str, rate: float) -> bytes:
    """The model with a Dropout, training mode on, on the first input of a node that depends on the network's inputs.

    before: the name of the node, or of its first result; `head`: the last Gemm or MatMul that an output depends on.
    rate: above 0 and below 1.

    The result is an approximate posterior over what the node computes with that input: each pass leaves other features
    out, and the passes differ as far as the network depends on single ones. It is not what training with dropout gives,
    which spreads what is learnt over features so that it can spare any: this network was never asked to. The rate is
    part of no training either: choose it by calibration, such as the likelihood of held-out data that the network was
    not trained on.

    Raises InvalidBundle for what is no ONNX model, and InvalidInput for a rate or a node that cannot be.
    """
    if not 0 < rate < 1:
        raise InvalidInput(f"the rate is {rate}; a number above 0 and below 1 is allowed.")
    model = parsed(content)
    model = upgraded(model) if opset_of(model) < _OPSET else model
    graph = model.graph
    data = _data(graph)
    place = _place(graph, data, before)
    node = graph.node[place]
    value = next(name for name in node.input if name in data)
    _refuse_type(model, value, node)
    taken = {name for inner in all_nodes(graph) for name in (inner.name, *inner.input, *inner.output)}
    taken |= {one.name for one in (*graph.input, *graph.initializer)}
    name = _fresh(f"{value}/dropout", taken)
    ratio, mode = _fresh(f"{name}/ratio", taken), _fresh(f"{name}/training_mode", taken)
    graph.initializer.append(numpy_helper.from_array(np.array(rate, np.float32), ratio))
    graph.initializer.append(numpy_helper.from_array(np.array(True), mode))
    node.input[list(node.input).index(value)] = name
    graph.node.insert(place, helper.make_node("Dropout", [value, ratio, mode], [name], name=name))
    model.ir_version = max(model.ir_version, _IR_VERSION)
    check(model)
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def _data(graph: GraphProto) -> set[str]:
    """The values that depend on the network's inputs."""
    data = {value.name for value in graph.input} - {weight.name for weight in graph.initializer}
    for node in graph.node:
        if data.intersection(reads(node)):
            data.update(writes(node))
    return data


def _place(graph: GraphProto, data: set[str], before: str) -> int:
    """Which node is meant. Raises InvalidInput, with the nodes there are."""
    nodes = {place: node for place, node in enumerate(graph.node) if data.intersection(node.input)}
    meant = [place for place, node in nodes.items() if before and before in {node.name, *node.output[:1]}]
    if not meant and before == HEAD:
        used = needed(graph.node, [output.name for output in graph.output])
        meant = [place for place, node in nodes.items() if node.op_type in _PRODUCTS and node in used][-1:]
    if len(meant) == 1:
        return meant[0]
    found = "no node that depends on the inputs" if not meant else "more than one node"
    shown = ", ".join(label(node) for node in list(nodes.values())[-_SHOWN:])
    raise InvalidInput(
        f"{found} of the ONNX model is named {before!r}; the last ones are {shown}; {HEAD!r} stands for the last "
        f"{' or '.join(_PRODUCTS)}."
    )


def _refuse_type(model: ModelProto, value: str, node: NodeProto) -> None:
    graph = onnx.shape_inference.infer_shapes(model).graph
    for known in (*graph.value_info, *graph.input):
        if known.name == value and known.type.tensor_type.elem_type not in _FLOATS:
            kind = TensorProto.DataType.Name(known.type.tensor_type.elem_type)
            raise InvalidInput(f"{label(node)} reads {value!r}, which is {kind}; only floats can be dropped.")


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
