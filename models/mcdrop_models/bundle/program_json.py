"""The JSON form of a Program.

Reading one runs no code: it can name only the operators of `mcdrop_models.bundle.allowed_operators`.

    {"schema": 1, "inputs": [...], "weights": [...], "nodes": [...], "output": name, "boundary": {name: rows}}

* An input is {"name", "shape", "dtype"}. Its shape is that of one row; it may name free dimensions.
* A node is a site {"name", "kind", "module", "input", "rate", "rows"} or an operation {"name", "target", "args",
  "kwargs"}. `mcdrop_models.bundle.argument_json` defines the form of arguments.
* Rows are [axis, before, after], or null where a value is the same for all rows.
* "free" lists the free dimensions as [name, least, most]; most is null where there is no upper bound. The key is absent
  where there are none.
* "positions" lists the sizes of the axes of an answer between its rows and its outputs, in the form of arguments. The
  key is absent where there are none.

{"schema": 2, ...} is an outline: all its nodes are sites, whose inputs are values of the suffix.onnx beside it.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dropout_core.capture.sites import draws
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.graph.program import (
    GETITEM,
    ROWS,
    FreeDimension,
    Graph,
    Input,
    Node,
    Operation,
    Program,
    Ref,
    RowAxis,
    Site,
    references,
    size_names,
)
from dropout_core.graph.sizes import Size
from dropout_core.graph.split import split, split_last
from mcdrop_models.bundle.allowed_operators import allowed_operator, check_call, operator_name
from mcdrop_models.bundle.argument_json import (
    decode_argument,
    dtype_name,
    dtype_named,
    encode_argument,
    expect_integer,
    expect_number,
    expect_text,
)
from mcdrop_models.errors import InvalidBundle

# The structure is checked by hand. Strict pydantic models with discriminated unions read that of the digits bundle in
# 0.15 ms of CPU where this takes 0.09 ms, and what is not structure (references, sizes, rows, depth) stayed as it is.
SCHEMA, OUTLINE = 1, 2
_MAX_NODES = 100_000
_MAX_INPUTS = 16


def graph_to_json(graph: Graph) -> bytes:
    """Return the content of program.json for a graph.

    Args:
        graph: The graph.

    Returns:
        The file, in UTF-8.

    Raises:
        InvalidBundle: The graph uses an operator or an argument that bundles may not use.
    """
    inputs = [{"name": spec.name, "shape": spec.shape, "dtype": dtype_name(spec.dtype)} for spec in graph.inputs]
    document = {
        "schema": OUTLINE if graph.is_outline else SCHEMA,
        "inputs": inputs,
        "weights": graph.weights,
        "nodes": [_node_to_json(node) for node in graph.nodes],
        "output": graph.output,
        "boundary": {name: _rows_to_json(rows) for name, rows in graph.boundary.items()},
    }
    if graph.free:
        document["free"] = [[free.name, free.least, free.most] for free in graph.free]
    if graph.positions:
        document["positions"] = encode_argument(graph.positions)
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def program_from_json(content: bytes, weights: Mapping[str, Tensor]) -> Program:
    """Return the Program of a program.json.

    Args:
        content: The content of the file.
        weights: The stored tensors by name; those that the program does not name are left out.

    Returns:
        The Program.

    Raises:
        InvalidBundle: The file is malformed or not allowed; the message says where.
    """
    try:
        document = json.loads(content, parse_constant=_no_constant)
        if expect_integer(document["schema"]) not in (SCHEMA, OUTLINE):
            raise InvalidBundle(
                f"program.json has schema {document['schema']!r}; this version reads {SCHEMA} and {OUTLINE}."
            )
        graph = _graph(document)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InvalidBundle(f"program.json is malformed: {type(error).__name__} at {error}.") from error
    missing = set(graph.weights) - set(weights)
    if missing:
        raise InvalidBundle(f"weights.safetensors lacks {', '.join(sorted(missing))}.")
    return Program(graph, {name: weights[name] for name in graph.weights})


def _graph(document: Any) -> Graph:
    counts = len(document["inputs"]), len(document["nodes"])
    if not 1 <= counts[0] <= _MAX_INPUTS or counts[1] > _MAX_NODES:
        raise InvalidBundle(
            f"program.json has {counts[0]} inputs and {counts[1]} nodes; it may have 1 to {_MAX_INPUTS} inputs and up "
            f"to {_MAX_NODES} nodes."
        )
    is_outline = document["schema"] == OUTLINE
    graph = Graph(
        inputs=tuple(map(_input, document["inputs"])),
        weights=tuple(map(expect_text, document["weights"])),
        nodes=_outline_nodes(document["nodes"]) if is_outline else _nodes(document["nodes"]),
        output=expect_text(document["output"]),
        boundary={expect_text(name): _rows(rows) for name, rows in document["boundary"].items()},
        free=tuple(_free(*item) for item in document.get("free", [])),
        positions=tuple(map(_position, document.get("positions", []))),
    )
    _check_names(graph)
    if is_outline:
        _check_outline(graph)
    else:
        _check_order(graph)
        _check_boundary(graph)
    return graph


def _nodes(items: Any) -> tuple[Node, ...]:
    nodes: list[Node] = []
    num_sites = 0
    for item in items:
        node = _site(item, num_sites) if "kind" in item else _operation(item)
        nodes.append(node)
        num_sites += isinstance(node, Site)
    return tuple(nodes)


def _outline_nodes(items: Any) -> tuple[Node, ...]:
    if any("kind" not in item for item in items):
        raise InvalidBundle("program.json is an outline with an operation; an outline has sites only.")
    return _nodes(items)


def _check_names(graph: Graph) -> None:
    """Check that names are unique, and that the sizes of inputs and positions are free dimensions."""
    values = [*graph.weights, *(spec.name for spec in graph.inputs)]
    sizes = [ROWS, *(one.name for one in graph.free)]
    if len(set(values)) < len(values) or len(set(sizes)) < len(sizes):
        raise InvalidBundle("program.json uses a name twice among its inputs, weights and free dimensions.")
    named = {size for spec in graph.inputs for size in spec.shape if isinstance(size, str)}
    _check_sizes(named | size_names(graph.positions), set(sizes[1:]))


def _check_order(graph: Graph) -> None:
    """Check that every node reads values that exist, and that the output is one of them."""
    known = {*graph.weights, *(spec.name for spec in graph.inputs)}
    sizes = {ROWS, *(one.name for one in graph.free)}
    for node in graph.nodes:
        unknown = set(references(node)) - known
        if unknown or node.name in known:
            raise InvalidBundle(f"node {node.name} reads {sorted(unknown)} before they exist, or uses a name twice.")
        _check_sizes(size_names(node), sizes)
        known.add(node.name)
    if graph.output not in known:
        raise InvalidBundle(f"program.json names the output {graph.output!r}, which no node has.")


def _check_outline(graph: Graph) -> None:
    unique = len({site.name for site in graph.sites}) == len(graph.sites)
    if not graph.nodes or graph.weights or not unique or not graph.is_outline or _misplaced_site(graph):
        raise InvalidBundle(
            "program.json is not a valid outline: an outline has no weights, and at least one site; its sites have "
            "different names, none of them is the output, and their rows lie where the boundary says."
        )


def _check_boundary(graph: Graph) -> None:
    """Check the boundary. The probe cannot: rows are concatenated along it in large batches only.

    The boundary may also have the values that cross to the last sites, which older bundles lack.
    """
    parts = split(graph)
    crossing = set(parts.crossing) - set(graph.weights)
    if not crossing <= set(graph.boundary) <= crossing | set(split_last(parts.suffix, graph.output).crossing):
        raise InvalidBundle(f"program.json has the boundary {sorted(graph.boundary)}, but {sorted(crossing)} cross it.")
    site = _misplaced_site(graph)
    if site is not None:
        raise InvalidBundle(f"site {site.name} and the boundary place the rows of {site.input.name} differently.")


def _misplaced_site(graph: Graph) -> Site | None:
    return next((site for site in graph.sites if site.rows != graph.boundary.get(site.input.name, site.rows)), None)


def _input(item: Any) -> Input:
    shape = tuple(size if isinstance(size, str) else expect_integer(size) for size in item["shape"])
    return Input(expect_text(item["name"]), shape, dtype_named(item["dtype"]))


def _position(item: Any) -> int | Size:
    size = decode_argument(item)
    return size if isinstance(size, Size) else expect_integer(size)


def _free(name: Any, least: Any, most: Any) -> FreeDimension:
    free = FreeDimension(expect_text(name), expect_integer(least), None if most is None else expect_integer(most))
    if free.least < 1 or (free.most is not None and free.most < free.least):
        raise InvalidBundle(f"program.json lets {free.name} be {free}; it must allow a size, and sizes begin at 1.")
    return free


def _check_sizes(names: set[str], known: set[str]) -> None:
    if not names <= known:
        raise InvalidBundle(
            f"program.json has sizes of {sorted(names - known)}, but its free dimensions are {sorted(known)}."
        )


def _site(item: Any, index: int) -> Site:
    name, kind, rate = expect_text(item["name"]), expect_text(item["kind"]), expect_number(item["rate"])
    if kind not in NOISE_KINDS or not (0.0 < rate <= 1.0 if NOISE_KINDS[kind].rated else rate == 0.0):
        rated, unrated = (
            ", ".join(name for name in NOISE_KINDS if NOISE_KINDS[name].rated is rated) for rated in (True, False)
        )
        allowed = f"{rated} with a rate above 0 and up to 1, and {unrated} with a rate of 0"
        raise InvalidBundle(f"site {name} has kind {kind!r} and rate {rate}; allowed are {allowed}.")
    return Site(
        name, index, kind, Ref(expect_text(item["input"])), rate, _rows(item["rows"]), expect_text(item["module"])
    )


def _operation(item: Any) -> Operation:
    name, target = expect_text(item["name"]), expect_text(item["target"])
    found = GETITEM if target == GETITEM else allowed_operator(target)
    args = decode_argument(item["args"])
    if not isinstance(args, tuple):
        raise InvalidBundle(f"the arguments of node {name} are not a list.")
    kwargs = {expect_text(key): decode_argument(value) for key, value in item["kwargs"].items()}
    if found == GETITEM:
        _check_element(name, args, kwargs)
        return Operation(name, found, args, kwargs)
    check_call(found, args, kwargs)
    if draws(found, args, kwargs):
        raise InvalidBundle(f"node {name} ({target}) draws random numbers; only sites may.")
    return Operation(name, found, args, kwargs)


def _check_element(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if len(args) != 2 or not isinstance(args[0], Ref) or kwargs:
        raise InvalidBundle(f"node {name} takes an element with {args}; the arguments must be a node and an index.")
    expect_integer(args[1])


def _node_to_json(node: Node) -> dict[str, Any]:
    if isinstance(node, Site):
        site = {"name": node.name, "kind": node.kind, "module": node.module, "input": node.input.name}
        return {**site, "rate": node.rate, "rows": _rows_to_json(node.rows)}
    target = GETITEM if node.target == GETITEM else operator_name(node.target, node.where)
    kwargs = {key: encode_argument(value) for key, value in node.kwargs.items()}
    return {"name": node.name, "target": target, "args": encode_argument(node.args), "kwargs": kwargs}


def _rows_to_json(rows: RowAxis | None) -> list[int] | None:
    return None if rows is None else [rows.axis, rows.before, rows.after]


def _rows(item: Any) -> RowAxis | None:
    if item is None:
        return None
    axis, before, after = map(expect_integer, item)
    if axis < 0 or before < 1 or after < 1:
        raise InvalidBundle(f"program.json places rows at {item}; it must be an axis and two positive folds.")
    return RowAxis(axis, before, after)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is not JSON")
