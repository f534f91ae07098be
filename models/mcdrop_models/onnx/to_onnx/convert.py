"""A torch function of named tensors → an ONNX model that says nothing of where it was made."""

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir
import torch
from onnx import helper
from onnx_ir.passes.common import OutputFixPass
from torch import Tensor, nn
from torch.export import Dim

from dropout_core.errors import McdropError
from dropout_core.graph.program import Node, Operation
from dropout_core.graph.sizes import Size
from mcdrop_models.errors import NotExportable
from mcdrop_models.onnx.graph.halves import IR_VERSION, OPSET
from mcdrop_models.onnx.to_onnx.loops import with_loops
from mcdrop_models.onnx.to_onnx.shapes import Shape

# What runtimes have read since 2022.

Function = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Port:
    """An input: its name, an example of it, and its shape. Sizes that are not fixed are at least 2 in the example."""

    name: str
    example: Tensor
    shape: Shape


@dataclass(frozen=True)
class Half:
    """What is to be a model.

    function: (inputs by name, weights by name) → outputs. outputs: their names and shapes. sizes: a Dim for each name
    that occurs in a shape of the inputs. nodes: what the function runs, for its errors.
    """

    function: Function
    weights: Mapping[str, Tensor]
    inputs: Sequence[Port]
    outputs: Sequence[tuple[str, Shape]]
    sizes: Mapping[str, Any]
    nodes: Sequence[Node]


def converted(half: Half) -> onnx.ModelProto:
    """The model. The same half makes the same bytes. Raises NotExportable."""
    module = _Traced(half)
    examples = tuple(port.example for port in half.inputs)
    dynamic = tuple(_dynamic(port.shape, half.sizes) for port in half.inputs)
    try:
        with _quietly():
            exported = torch.export.export(
                module, (examples,), dynamic_shapes=(dynamic,), prefer_deferred_runtime_asserts_over_guards=True
            )
            program = torch.onnx.export(exported, dynamo=True, opset_version=OPSET, verbose=False)
    except McdropError:
        raise
    except Exception as error:
        raise NotExportable(_refusal(error, half.nodes)) from error
    if program is None:
        raise NotExportable("torch's exporter answered nothing; the torch backend serves this network.")
    OutputFixPass()(program.model)
    model = with_loops(onnx_ir.to_proto(program.model))
    return _tidied(model, half)


class _Traced(nn.Module):
    """The function as torch.export wants it: its weights are buffers."""

    def __init__(self, half: Half) -> None:
        super().__init__()
        self._function = half.function
        self._inputs = [port.name for port in half.inputs]
        self._places = {name: f"w{place}" for place, name in enumerate(half.weights)}
        for name, place in self._places.items():
            self.register_buffer(place, half.weights[name])

    def forward(self, values: tuple[Tensor, ...]) -> list[Tensor]:
        """The outputs for the inputs in their order."""
        weights = {name: getattr(self, place) for name, place in self._places.items()}
        return list(self._function(dict(zip(self._inputs, values, strict=True)), weights))


def _dynamic(shape: Shape, sizes: Mapping[str, Any]) -> dict[int, Any]:
    """The axes that are not fixed. What is no multiple of one size plus a number, torch works out itself."""
    axes: dict[int, Any] = {}
    for axis, size in enumerate(shape):
        if isinstance(size, Size):
            try:
                axes[axis] = size(sizes)  # Dims add and multiply like numbers
            except (TypeError, NotImplementedError):
                axes[axis] = Dim.AUTO
    return axes


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on torchvision, on names and on what it could not fold."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refusal(error: BaseException, nodes: Sequence[Node]) -> str:
    """What stands in the way: the operator that the exporter names, and the line of the network that calls for it."""
    reasons = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        reasons.append(str(error))
    named = re.search(r"target=torch\.ops\.(\w+\.(\w+)\.\w+)", " ".join(reasons))
    if named is None:
        why = reasons[-1].strip().splitlines() or [type(error).__name__]
        return f"torch {torch.__version__} exports no ONNX of this network: {why[0]} The torch backend serves it."
    lines = sorted(
        {node.where for node in nodes if isinstance(node, Operation) and named[2] in str(node.target)} - {""}
    )
    at = f" (at {', '.join(lines)})" if lines else ""
    return (
        f"the operator {named[1]}{at} has no counterpart in ONNX. Write it with other operations, or leave the network "
        "to the torch backend."
    )


def _tidied(model: onnx.ModelProto, half: Half) -> onnx.ModelProto:
    """The same graph with names of our own, and nothing besides: an exporter leaves the paths of source files."""
    graph, names = model.graph, dict[str, str]()
    for value, port in zip(graph.input, half.inputs, strict=True):
        names[value.name] = port.name
    for value, (name, _) in zip(graph.output, half.outputs, strict=True):
        names[value.name] = name
    nodes = _renamed(graph, names)
    inputs = [
        _value(port.name, given.type.tensor_type.elem_type, port.shape)
        for given, port in zip(graph.input, half.inputs, strict=True)
    ]
    outputs = [
        _value(name, made.type.tensor_type.elem_type, shape)
        for made, (name, shape) in zip(graph.output, half.outputs, strict=True)
    ]
    tidy = helper.make_graph(nodes, "half", inputs, outputs, list(graph.initializer))
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(tidy, opset_imports=[opset], ir_version=IR_VERSION, producer_name="mcdrop")


def _renamed(graph: onnx.GraphProto, names: dict[str, str]) -> list[onnx.NodeProto]:
    """The nodes of a graph, renamed in place along with its initializers; what has no name yet is numbered.

    No name of a network's has a number after its only dot.
    """

    def new(name: str) -> str:
        return names.setdefault(name, f"v.{len(names)}") if name else ""

    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
        tensor.ClearField("doc_string")
        del tensor.metadata_props[:]
    for node in graph.node:
        node.input[:], node.output[:] = map(new, node.input), map(new, node.output)
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.type == onnx.AttributeProto.GRAPH:
                _renamed_body(attribute.g, names)
    return list(graph.node)


def _renamed_body(body: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in (*body.input, *body.output):
        value.name = names.setdefault(value.name, f"v.{len(names)}")
        for field in ("doc_string", "metadata_props"):
            value.ClearField(field)
    for field in ("value_info", "doc_string", "metadata_props"):
        body.ClearField(field)
    _renamed(body, names)


def _value(name: str, elem_type: int, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, elem_type, [str(size) if isinstance(size, Size) else size for size in shape]
    )
