"""Program ↔ program.json. Reading one can name nothing but the operators of models.operators: no code runs.

{"schema": 1, "inputs": [...], "weights": [...], "nodes": [...], "output": name, "boundary": {name: rows | null}}

An argument is JSON with five tagged forms: {"ref": name}, {"size": expression of "rows"}, {"device": true},
{"dtype": name} and {"float": "inf" | "-inf" | "nan"}; {"layout": …} and {"memory_format": …} name those of torch.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dropout_core.mc.program import (
    GETITEM,
    ROWS,
    Device,
    Expression,
    Graph,
    Input,
    Node,
    Operation,
    Program,
    Ref,
    Rows,
    Site,
    Size,
    references,
)
from dropout_core.mc.sites import draws
from models.errors import InvalidBundle
from models.operators import name_of, operator

SCHEMA = 1
_MAX_NODES = 100_000
_MAX_DEPTH = 32
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    )
}  # fmt: skip
_FORMATS = {str(value).removeprefix("torch."): value for value in (torch.contiguous_format, torch.preserve_format, torch.channels_last)}
_BINARY = ("add", "mul", "floordiv", "mod")
_KINDS = ("dropout", "feature_dropout")


def to_json(graph: Graph) -> bytes:
    """A graph as program.json. Raises InvalidBundle for an operator that bundles may not use."""
    document = {
        "schema": SCHEMA,
        "inputs": [{"name": spec.name, "shape": spec.shape, "dtype": _dtype_name(spec.dtype)} for spec in graph.inputs],
        "weights": graph.weights,
        "nodes": [_node_to_json(node) for node in graph.nodes],
        "output": graph.output,
        "boundary": {name: _rows_to_json(rows) for name, rows in graph.boundary.items()},
    }
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def from_json(content: bytes, weights: Mapping[str, Tensor]) -> Program:
    """The Program of a program.json and its weights. Raises InvalidBundle, naming what is wrong."""
    try:
        document = json.loads(content, parse_constant=_no_constant)
        if document["schema"] != SCHEMA:
            raise InvalidBundle(f"program.json has schema {document['schema']!r}; this version reads {SCHEMA}.")
        graph = _graph(document)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidBundle(f"program.json is malformed: {type(error).__name__} at {error}.") from error
    missing = set(graph.weights) - set(weights)
    if missing:
        raise InvalidBundle(f"weights.safetensors lacks {', '.join(sorted(missing))}.")
    return Program(graph, {name: weights[name] for name in graph.weights})


def _graph(document: Any) -> Graph:
    inputs = tuple(Input(_text(item["name"]), tuple(map(_int, item["shape"])), _DTYPES[item["dtype"]]) for item in document["inputs"])
    if len(inputs) != 1 or len(document["nodes"]) > _MAX_NODES:
        raise InvalidBundle(f"program.json has {len(inputs)} inputs and {len(document['nodes'])} nodes; 1 and up to {_MAX_NODES}.")
    names = tuple(_text(name) for name in document["weights"])
    nodes: list[Node] = []
    known = {*names, *(spec.name for spec in inputs)}
    for item in document["nodes"]:
        node = _node_from_json(item, sum(isinstance(node, Site) for node in nodes) if item.get("kind") else 0)
        unknown = set(references(node)) - known
        if unknown or node.name in known:
            raise InvalidBundle(f"node {node.name} reads {sorted(unknown)} before they exist, or takes a name twice.")
        known.add(node.name)
        nodes.append(node)
    boundary = {_text(name): _rows_from_json(rows) for name, rows in document["boundary"].items()}
    if not {document["output"], *boundary} <= known:
        raise InvalidBundle("program.json names an output or a boundary that no node makes.")
    return Graph(inputs, names, tuple(nodes), document["output"], boundary)


def _node_to_json(node: Node) -> dict[str, Any]:
    if isinstance(node, Site):
        site = {"name": node.name, "kind": node.kind, "input": node.input.name, "rate": node.rate}
        return {**site, "rows": _rows_to_json(node.rows)}
    target = GETITEM if node.target == GETITEM else name_of(node.target, node.where)
    kwargs = {key: _to_json(value) for key, value in node.kwargs.items()}
    return {"name": node.name, "target": target, "args": _to_json(node.args), "kwargs": kwargs}


def _node_from_json(item: Any, index: int) -> Node:
    name = _text(item["name"])
    if "kind" in item:
        rate = float(item["rate"])
        if item["kind"] not in _KINDS or not 0.0 < rate <= 1.0:
            raise InvalidBundle(f"site {name} has kind {item['kind']!r} and rate {rate}; {' or '.join(_KINDS)}, above 0 and up to 1.")
        return Site(name, index, item["kind"], Ref(_text(item["input"])), rate, _rows_from_json(item["rows"]))
    target = GETITEM if item["target"] == GETITEM else operator(_text(item["target"]))
    args = _from_json(item["args"])
    if not isinstance(args, tuple):
        raise InvalidBundle(f"node {name} has arguments that are no list.")
    kwargs = {_text(key): _from_json(value) for key, value in item["kwargs"].items()}
    if draws(target, args, kwargs):
        raise InvalidBundle(f"node {name} ({item['target']}) draws random numbers of its own; only sites may.")
    return Operation(name, target, args, kwargs)


def _to_json(arg: Any) -> Any:
    match arg:
        case tuple():
            return [_to_json(item) for item in arg]
        case Ref():
            return {"ref": arg.name}
        case Size():
            return {"size": arg.expression}
        case Device():
            return {"device": True}
        case torch.dtype():
            return {"dtype": _dtype_name(arg)}
        case torch.memory_format():
            return {"memory_format": str(arg).removeprefix("torch.")}
        case torch.layout() if arg == torch.strided:
            return {"layout": "strided"}
        case float() if not math.isfinite(arg):
            return {"float": str(arg)}
        case None | bool() | int() | float() | str():
            return arg
    raise InvalidBundle(f"an operator has the argument {arg!r}, which program.json cannot hold.")


def _from_json(item: Any, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidBundle(f"program.json nests arguments deeper than {_MAX_DEPTH}.")
    if isinstance(item, list):
        return tuple(_from_json(part, depth + 1) for part in item)
    if not isinstance(item, dict):
        return item
    ((tag, value),) = item.items()
    match tag:
        case "ref":
            return Ref(_text(value))
        case "size":
            return Size(_expression(value))
        case "device":
            return Device()
        case "dtype":
            return _DTYPES[value]
        case "memory_format":
            return _FORMATS[value]
        case "layout" if value == "strided":
            return torch.strided
        case "float" if value in ("inf", "-inf", "nan"):
            return float(value)
    raise InvalidBundle(f"program.json has an argument tagged {tag!r}, which is none of its forms.")


def _expression(tree: Any, depth: int = 0) -> Expression:
    if tree == ROWS or (isinstance(tree, int) and not isinstance(tree, bool)):
        return tree  # type: ignore[no-any-return]
    operator_name, left, right = tree
    if operator_name not in _BINARY or depth > _MAX_DEPTH:
        raise InvalidBundle(f"program.json has a size with {operator_name!r}; sizes use {', '.join(_BINARY)}.")
    return operator_name, _expression(left, depth + 1), _expression(right, depth + 1)


def _rows_to_json(rows: Rows | None) -> list[int] | None:
    return None if rows is None else [rows.axis, rows.before, rows.after]


def _rows_from_json(item: Any) -> Rows | None:
    if item is None:
        return None
    axis, before, after = map(_int, item)
    if axis < 0 or before < 1 or after < 1:
        raise InvalidBundle(f"program.json places rows at {item}; an axis and two positive folds are wanted.")
    return Rows(axis, before, after)


def _dtype_name(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise InvalidBundle(f"the network uses {dtype}; bundles hold {', '.join(_DTYPES)}.")
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r}, where a name is wanted")
    return value


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r}, where a whole number is wanted")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is not JSON")
