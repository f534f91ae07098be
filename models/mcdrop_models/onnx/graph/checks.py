"""Whether bytes are an ONNX model that may be looked at: limits first, then the format's own rules.

Nothing is computed and no other file is read. What a graph must be to have its noise found is not decided here.
"""

import math
from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.graph.source import all_nodes, graphs_in

# A protobuf message has fewer bytes than this.
MAX_BYTES = 2**31
MAX_NODES = 50_000
MAX_WEIGHTS = 50_000
MAX_AXES = 16
MAX_NAME = 1000
MAX_GRAPHS_DEEP = 8
STANDARD, CLASSICAL = "", "ai.onnx.ml"
_ALIAS = "ai.onnx"
_MAIN = ("", "")
_OLDEST_IR = 3
_ERRORS = (
    onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError, IndexError
)  # fmt: skip


def parsed(content: bytes) -> ModelProto:
    """The model that bytes are. Raises InvalidBundle for what is none, is too large, or needs more than itself."""
    if len(content) >= MAX_BYTES:
        raise InvalidBundle(f"the ONNX model has {len(content)} bytes; fewer than {MAX_BYTES} are allowed.")
    try:
        model: ModelProto = ModelProto.FromString(content)
    except DecodeError as error:
        raise InvalidBundle("the bytes are no ONNX model; send a whole file, as an exporter wrote it.") from error
    _check_limits(model)
    _check_versions(model)
    check(model)
    return model


def check(model: ModelProto) -> None:
    """Raise InvalidBundle for a model that breaks the rules of the format."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except _ERRORS as error:
        raise InvalidBundle(f"the ONNX model is invalid: {shortened(error)}") from error


def shortened(error: Exception) -> str:
    """What an error of the onnx package says, in one line of bounded length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _check_limits(model: ModelProto) -> None:
    graphs = [model.graph, *(GraphProto(node=function.node) for function in model.functions)]
    _check_depth(graphs)
    nodes = [node for graph in graphs for node in all_nodes(graph)]
    if len(nodes) > MAX_NODES:
        raise InvalidBundle(f"the ONNX model has {len(nodes)} nodes; {MAX_NODES} are allowed.")
    inner = [*graphs, *(graph for node in nodes for graph in graphs_in(node))]
    if any(graph.sparse_initializer for graph in inner):
        raise InvalidBundle("the ONNX model has sparse weights; only dense ones are allowed.")
    tensors = [*(weight for graph in inner for weight in graph.initializer), *_tensors(nodes)]
    if len(tensors) > MAX_WEIGHTS:
        raise InvalidBundle(f"the ONNX model has {len(tensors)} weights and constants; {MAX_WEIGHTS} are allowed.")
    for tensor in tensors:
        _check_tensor(tensor)
    _check_names([name for node in nodes for name in (node.name, node.op_type, node.domain, *node.input, *node.output)])
    _check_names([attribute.name for node in nodes for attribute in node.attribute])
    _check_names([value.name for graph in inner for value in (*graph.input, *graph.output, *graph.initializer)])
    _check_names([dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim])
    _check_names([name for function in model.functions for name in (function.name, function.domain)])
    _check_names([opset.domain for opset in model.opset_import])


def _check_names(names: list[str]) -> None:
    if any(isinstance(name, bytes) for name in names):  # as protobuf gives text that is none
        raise InvalidBundle("a name in the ONNX model is no UTF-8; export the model again.")
    if (longest := max(map(len, names), default=0)) > MAX_NAME:
        raise InvalidBundle(f"a name in the ONNX model has {longest} characters; {MAX_NAME} are allowed.")


def _check_depth(graphs: list[GraphProto]) -> None:
    for _ in range(MAX_GRAPHS_DEEP):
        graphs = [inner for graph in graphs for node in graph.node for inner in graphs_in(node)]
    if graphs:
        raise InvalidBundle(f"graphs are nested more than {MAX_GRAPHS_DEEP} deep in the ONNX model.")


def _tensors(nodes: list[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type in {AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS}:
                raise InvalidBundle("the ONNX model has sparse constants; only dense ones are allowed.")
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(tensor: TensorProto) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise InvalidBundle(
            f"the weight {tensor.name!r} lies in another file; save the model as one file, as onnx.save does "
            "unless it is told otherwise."
        )
    # the smallest type packs two elements in a byte
    most = 2 * tensor.ByteSize() + 1
    if len(tensor.dims) > MAX_AXES or min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > most:
        raise InvalidBundle(
            f"the weight {tensor.name!r} says its shape is {list(tensor.dims)[:MAX_AXES]} and has {tensor.ByteSize()} "
            f"bytes; at most {MAX_AXES} axes are allowed, and as many elements as there are."
        )


def _check_versions(model: ModelProto) -> None:
    if not _OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise InvalidBundle(
            f"the ONNX model has IR version {model.ir_version}; {_OLDEST_IR} to {onnx.IR_VERSION} are known."
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in {STANDARD, _ALIAS} and not 1 <= opset.version <= newest:
            raise InvalidBundle(f"the ONNX model has opset {opset.version}; 1 to {newest} are known.")
    functions = {(function.domain, function.name): function for function in model.functions}
    nodes = [*all_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    for node in nodes:
        if (node.domain, node.op_type) not in functions and node.domain not in {STANDARD, _ALIAS, CLASSICAL}:
            raise InvalidBundle(
                f"the ONNX model uses {node.domain}.{node.op_type}, which is no standard operator; export it with "
                "standard ones only, without training operators and without a runtime's own optimisation."
            )
    bodies = {key: GraphProto(node=function.node) for key, function in functions.items()} | {_MAIN: model.graph}
    _check_calls({key: [(node.domain, node.op_type) for node in all_nodes(body)] for key, body in bodies.items()})


def _check_calls(calls: dict[tuple[str, str], list[tuple[str, str]]]) -> None:
    """Functions that call themselves, or each other in a ring, would be written out for ever; so could deep ones be."""
    sizes: dict[tuple[str, str], int] = {}
    waiting = set(calls)
    while waiting:
        ready = {key for key in waiting if not waiting.intersection(calls[key])}
        if not ready:
            raise InvalidBundle("functions of the ONNX model call themselves; they must end in standard operators.")
        for key in ready:
            sizes[key] = sum(sizes.get(called, 1) for called in calls[key])
        waiting -= ready
    if max(sizes.values(), default=0) > MAX_NODES:
        raise InvalidBundle(f"the functions of the ONNX model write out to more than {MAX_NODES} nodes.")
