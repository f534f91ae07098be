"""Recurrent layers as loops of ONNX: a Scan over the steps, whose body is one step of a cell.

torch's exporter has no loop. What torch traces is one operator of ours, `mcdrop::Steps`, which becomes a Scan.
"""

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor

_DOMAIN, _OPERATOR = "mcdrop", "Steps"
_Lines = Sequence[tuple[str, Sequence[str], Sequence[str]]]

# As dropout_core.layers.rnn_steps has them. given, recurrent [D, N, gates · H]; h, c [D, N, H].
_LSTM: _Lines = (
    ("Add", ("given", "recurrent"), ("gates",)),
    ("Split", ("gates",), ("i", "f", "g", "o")),
    ("Sigmoid", ("i",), ("i_open",)),
    ("Sigmoid", ("f",), ("f_open",)),
    ("Sigmoid", ("o",), ("o_open",)),
    ("Tanh", ("g",), ("g_new",)),
    ("Mul", ("f_open", "c"), ("c_kept",)),
    ("Mul", ("i_open", "g_new"), ("c_added",)),
    ("Add", ("c_kept", "c_added"), ("c_next",)),
    ("Tanh", ("c_next",), ("c_seen",)),
    ("Mul", ("o_open", "c_seen"), ("h_next",)),
)
_GRU: _Lines = (
    ("Split", ("given",), ("r", "u", "n")),
    ("Split", ("recurrent",), ("r_h", "u_h", "n_h")),
    ("Add", ("r", "r_h"), ("r_sum",)),
    ("Sigmoid", ("r_sum",), ("r_open",)),
    ("Add", ("u", "u_h"), ("u_sum",)),
    ("Sigmoid", ("u_sum",), ("u_open",)),
    ("Mul", ("r_open", "n_h"), ("n_kept",)),
    ("Add", ("n", "n_kept"), ("n_sum",)),
    ("Tanh", ("n_sum",), ("new",)),
    ("Sub", ("h", "new"), ("change",)),
    ("Mul", ("u_open", "change"), ("moved",)),
    ("Add", ("new", "moved"), ("h_next",)),
)
_PLAIN: _Lines = (("Add", ("given", "recurrent"), ("sum",)),)
_CELLS: dict[str, _Lines] = {
    "lstm": _LSTM,
    "gru": _GRU,
    "rnn_tanh": (*_PLAIN, ("Tanh", ("sum",), ("h_next",))),
    "rnn_relu": (*_PLAIN, ("Relu", ("sum",), ("h_next",))),
}


def steps(
    cell: str,
    given: Tensor,
    going: Tensor | None,
    mask: Tensor,
    columns: Tensor,
    bias: Tensor,
    h: Tensor,
    c: Tensor | None,
) -> list[Tensor]:
    """All steps of a layer, while torch traces it: the states [L, D, N, H], and h and c after the last step.

    given: [L, D, N, gates · H], what the inputs and their bias give. going: bool [L, N, 1]; where it is False the
    states stay. mask: [D, N, H], or what broadcasts to it, times h where it meets the columns [D, H, gates · H]. bias:
    [D, 1, gates · H]. h, c: [D, N, H]; c None but for an LSTM.
    """
    states = [state for state in (h, c) if state is not None]
    outputs: Any = torch.onnx.ops.symbolic_multi_out(
        f"{_DOMAIN}::{_OPERATOR}",
        [given, mask, columns, bias, *states, *([] if going is None else [going])],
        {"cell": cell},
        dtypes=[h.dtype] * (1 + len(states)),
        shapes=[(given.shape[0], *h.shape), *(state.shape for state in states)],
        version=1,
    )
    return list(outputs)


def with_loops(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a Scan in the place of each of these operators."""
    nodes = [
        _scan(node, f"loop{place}") if (node.domain, node.op_type) == (_DOMAIN, _OPERATOR) else node
        for place, node in enumerate(model.graph.node)
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _scan(node: onnx.NodeProto, prefix: str) -> onnx.NodeProto:
    cell = helper.get_attribute_value(node.attribute[0]).decode()
    given, mask, columns, bias, *rest = node.input
    count = 2 if cell == "lstm" else 1
    states, going = rest[:count], rest[count:]
    known = {"mask": mask, "columns": columns, "bias": bias}
    body = _body(cell, bool(going), known, prefix)
    all_states, *ends = node.output
    return helper.make_node(
        "Scan", [*states, given, *going], [*ends, all_states], body=body, num_scan_inputs=1 + len(going)
    )


def _body(cell: str, stops: bool, known: dict[str, str], prefix: str) -> onnx.GraphProto:
    """One step. mask, columns and bias are those outside the loop."""
    states = ("h", "c")[: 2 if cell == "lstm" else 1]
    lines = [
        ("Mul", ("h", "mask"), ("masked",)),
        ("MatMul", ("masked", "columns"), ("product",)),
        ("Add", ("product", "bias"), ("recurrent",)),
        *_CELLS[cell],
        *((("Where", ("going", f"{state}_next", state), (f"{state}_then",)) for state in states) if stops else ()),
    ]
    last = {state: f"{state}_then" if stops else f"{state}_next" for state in states}
    lines.append(("Identity", (last["h"],), ("state",)))

    def name(word: str) -> str:
        return known.get(word, f"{prefix}.{word}")

    nodes = [
        helper.make_node(operator, list(map(name, reads)), list(map(name, makes)), **_options(operator, makes))
        for operator, reads, makes in lines
    ]
    inputs = [*states, "given", *(["going"] if stops else [])]
    outputs = [*last.values(), "state"]
    return helper.make_graph(
        nodes, prefix, [_untyped(name(word)) for word in inputs], [_untyped(name(word)) for word in outputs]
    )


def _options(operator: str, makes: Sequence[str]) -> dict[str, Any]:
    return {"axis": -1, "num_outputs": len(makes)} if operator == "Split" else {}


def _untyped(name: str) -> onnx.ValueInfoProto:
    """A value of a loop's body: its type is that of what is handed in."""
    return onnx.ValueInfoProto(name=name)
