"""An ONNX model in one form, whoever wrote it: no functions, a recent opset, one result, inference throughout.

What the result does not need is left out first: a classifier's label, and the operators that only it uses.
"""

from collections import Counter
from collections.abc import Iterable

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import GraphProto, ModelProto, NodeProto, OperatorSetIdProto
from onnx import helper as make

from dropout_core.errors import CaptureError, InvalidInput
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.graph.checks import CLASSICAL, MAX_NODES, STANDARD, check, shortened
from mcdrop_models.onnx.graph.halves import IR_VERSION, OPSET
from mcdrop_models.onnx.graph.source import all_nodes, graphs_in, label, needed, rename, writes

OUTPUT = "output"
# Names of what a half of a network adds to its graph.
OURS = "mcdrop"
_RESERVED = ("noise.", "size.", OURS)


def prepared(model: ModelProto, result: str | None) -> ModelProto:
    """A checked model with one output, named `output`. Raises InvalidInput for a result there is not, or InvalidBundle.

    result: the name of a value; None: the only output.
    """
    graph = onnx.shape_inference.infer_shapes(_inlined(model)).graph
    _plain(graph)
    name = _result(graph, result)
    nodes = list(needed(graph.node, [name]))
    for node in nodes:
        _infer(node, {read for other in nodes for read in other.input})
    classical = any(node.domain == CLASSICAL for node in nodes)
    opsets = [one for one in model.opset_import if one.domain == CLASSICAL and classical]
    opsets.append(make.make_opsetid(STANDARD, opset_of(model)))
    small = _model(graph, nodes, [onnx.ValueInfoProto(name=name)], opsets)
    newer = upgraded(small)
    _rename(newer.graph, name)
    return newer


def opset_of(model: ModelProto) -> int:
    """The version of the standard operators that a model is written in."""
    return max((one.version for one in model.opset_import if one.domain in {STANDARD, "ai.onnx"}), default=1)


def upgraded(model: ModelProto) -> ModelProto:
    """The model in opset 18 if it was written in an older one. Raises InvalidBundle where that cannot be."""
    if opset_of(model) >= OPSET:
        return model
    try:
        newer = onnx.version_converter.convert_version(model, OPSET)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise InvalidBundle(
            f"the ONNX model has opset {opset_of(model)} and cannot be brought to opset {OPSET}: {shortened(error)}. "
            f"Export it with opset {OPSET}."
        ) from error
    return newer


def _inlined(model: ModelProto) -> ModelProto:
    if not model.functions:
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    try:
        inlined = onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise InvalidBundle(f"the functions of the ONNX model cannot be written out: {shortened(error)}") from error
    if sum(1 for _ in all_nodes(inlined.graph)) > MAX_NODES:
        raise InvalidBundle(f"the functions of the ONNX model write out to more than {MAX_NODES} nodes.")
    check(inlined)
    return inlined


def _plain(graph: GraphProto) -> None:
    """Without what only readers need: paths and lines of sources among it."""
    for node in all_nodes(graph):
        node.doc_string = ""
        del node.metadata_props[:]
        node.domain = STANDARD if node.domain == "ai.onnx" else node.domain
        for inner in graphs_in(node):
            del inner.value_info[:], inner.metadata_props[:]
            inner.doc_string = ""
    for weight in graph.initializer:
        weight.doc_string = ""
        del weight.metadata_props[:]


def _result(graph: GraphProto, result: str | None) -> str:
    outputs: list[str] = [output.name for output in graph.output]
    made = {name for node in graph.node for name in writes(node)}
    if result is None and len(outputs) == 1:
        return outputs[0]
    if result is None:
        raise InvalidInput(f"the ONNX model has the outputs {', '.join(outputs)}; say which one is the result.")
    if result not in made:
        raise InvalidInput(f"the ONNX model has no value {result!r}; its outputs are {', '.join(outputs)}.")
    return result


def _infer(node: NodeProto, read: set[str]) -> None:
    """Batch norm by its running statistics: its training form normalises by the other rows of the batch."""
    if node.op_type != "BatchNormalization" or node.domain != STANDARD:
        return
    if used := read.intersection(node.output[1:]):
        raise CaptureError(
            f"{label(node)} is in training and its statistics {', '.join(sorted(used))} are used; export the model "
            "with batch norm in eval mode."
        )
    del node.output[1:]
    kept = [attribute for attribute in node.attribute if attribute.name not in {"training_mode", "is_test"}]
    del node.attribute[:]
    node.attribute.extend(kept)


def _model(
    graph: GraphProto, nodes: list[NodeProto], outputs: list[onnx.ValueInfoProto], opsets: list[OperatorSetIdProto]
) -> ModelProto:
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    small = make.make_graph(nodes, OURS, inputs, _typed(graph, outputs), graph.initializer)
    version = max(IR_VERSION, make.find_min_ir_version_for(opsets, ignore_unknown=True))
    return make.make_model(small, opset_imports=opsets, ir_version=version)


def _typed(graph: GraphProto, outputs: Iterable[onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    """The outputs as the graph declares them, where it does."""
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    return [known.get(output.name, output) for output in outputs]


def _rename(graph: GraphProto, result: str) -> None:
    """Give the result its name, and to other values that have ours another one. Changes the graph."""
    inputs = [value.name for value in graph.input]
    for name in inputs:
        if name == OUTPUT or name.startswith(_RESERVED):
            raise InvalidInput(f"an input of the ONNX model is named {name!r}; rename it: that name is taken.")
    values = {name for node in all_nodes(graph) for name in (*node.input, *node.output)}
    values |= {weight.name for weight in graph.initializer}
    taken = Counter(values)
    names = {result: OUTPUT} if result not in inputs else {}
    for name in values - {result}:
        if name == OUTPUT or name.startswith(_RESERVED):
            other = f"own.{name}"
            while other in taken:
                other = f"own.{other}"
            names[name] = other
    rename(graph.node, names)
    for value in (*graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    del graph.value_info[:]
