"""Recurrent layers, ours and torch's, in ONNX: its own layers where nothing is masked, else a loop of steps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dropout_core.graph.program import Operation
from dropout_core.layers.rnn_operator import GATES, rnn
from dropout_core.layers.rnn_steps import RecurrentOutput
from mcdrop_models.errors import NotExportable
from mcdrop_models.onnx.to_onnx.loops import steps

_aten = torch.ops.aten
_TORCHS = {getattr(_aten, cell).input: cell for cell in GATES}
# ONNX's order of the gates, as places in torch's: i o f c, and z r h.
_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
_LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {"linear_before_reset": 1}),
    "rnn_tanh": ("RNN", {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}),
}


def exportable(node: Operation) -> Operation:
    """The operation, made of what can be exported. Raises NotExportable for projected states."""
    if node.target is rnn:
        return replace(node, target=_layer)
    if node.target in _TORCHS:
        return replace(node, target=_stack(node))
    return node


def _stack(node: Operation) -> Any:
    """torch's own operator, layer by layer."""
    cell = _TORCHS[node.target]

    def layers(
        x: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        _dropout: float,
        _train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        states, directions = list(hx) if isinstance(hx, list | tuple) else [hx], 1 + bidirectional
        each = len(params) // num_layers
        if each > directions * (2 + 2 * has_biases):
            raise NotExportable(f"{node.target} at {node.where} projects its states, which ONNX's layers do not.")
        value, ends = x if batch_first else x.transpose(0, 1), []
        for layer in range(num_layers):
            begun = [state.narrow(0, layer * directions, directions) for state in states]
            weights = params[layer * each : (layer + 1) * each]
            value, *end = _layer(
                value, None, weights, None, begun[0], begun[1] if cell == "lstm" else None, cell, bidirectional
            )
            ends.append(end)
        joined = [torch.cat(parts) for parts in zip(*ends, strict=True)]
        return (value if batch_first else value.transpose(0, 1), *joined[: len(states)])

    return layers


def _layer(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
    mask: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    bidirectional: bool,
) -> RecurrentOutput:
    """`mcdrop::rnn`: one layer whose hidden state enters W_hh times the mask [B, D, H]."""
    each = len(weights) // (1 + bidirectional)
    w_ih, w_hh, *biases = (torch.stack(tuple(weights[kind::each])) for kind in range(each))
    b_ih, b_hh = biases or [w_ih.new_zeros(w_ih.shape[:2])] * 2
    zeros = x.new_zeros((len(w_hh), x.shape[0], w_hh.shape[2]))
    h = zeros if h0 is None else h0
    c = (zeros if c0 is None else c0) if cell == "lstm" else None
    if mask is None and x.dtype == torch.float32:  # ONNX Runtime's layers know no other type
        output, *ends = _whole(x, lengths, (w_ih, w_hh, b_ih, b_hh), h, c, cell)
    else:
        mask = x.new_ones(1) if mask is None else mask.transpose(0, 1)
        output, *ends = _stepped(x, lengths, (w_ih, w_hh, b_ih, b_hh), mask, h, c, cell)
    return output, ends[0], ends[1] if c is not None else zeros[..., :0]


def _whole(
    x: Tensor,
    lengths: Tensor | None,
    weights: tuple[Tensor, ...],
    h: Tensor,
    c: Tensor | None,
    cell: str,
) -> list[Tensor]:
    """By ONNX's own operator."""
    operator, attributes = _LAYERS[cell]
    w, r, b_ih, b_hh = (_reordered(weight, cell) for weight in weights)
    directions, rows, hidden = h.shape
    if "activations" in attributes:
        attributes = {"activations": attributes["activations"] * directions}
    some = None if lengths is None else lengths > 0
    # a row of no steps takes one, which is undone below: ONNX knows no length of 0
    taken = None if lengths is None else lengths.clamp(min=1).to(torch.int32)
    states = [h] if c is None else [h, c]
    output, *ends = torch.onnx.ops.symbolic_multi_out(
        operator,
        [x.transpose(0, 1), w, r, torch.cat([b_ih, b_hh], 1), taken, *states],
        {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward", **attributes},
        dtypes=[x.dtype] * (1 + len(states)),
        shapes=[(x.shape[1], directions, rows, hidden), *(state.shape for state in states)],
    )
    value = output.permute(2, 0, 1, 3).flatten(2)  # [L, D, B, H] -> [B, L, D·H]
    if some is None:
        return [value, *ends]
    kept = some.unsqueeze(-1)
    return [
        torch.where(kept.unsqueeze(-1), value, 0.0),
        *(torch.where(kept, end, state) for end, state in zip(ends, states, strict=True)),
    ]


def _reordered(weight: Tensor, cell: str) -> Tensor:
    """[D, gates · H, …] with its gates in ONNX's order."""
    gates = weight.unflatten(1, (GATES[cell], -1))
    return torch.stack([gates[:, place] for place in _ORDER[cell]], 1).flatten(1, 2)


def _stepped(
    x: Tensor,
    lengths: Tensor | None,
    weights: tuple[Tensor, ...],
    mask: Tensor,
    h: Tensor,
    c: Tensor | None,
    cell: str,
) -> list[Tensor]:
    """By a loop over the steps, both directions side by side; the second has the steps of each row in reverse."""
    w_ih, w_hh, b_ih, b_hh = weights
    length, bidirectional = x.shape[1], len(w_ih) == 2
    places = torch.arange(length).unsqueeze(-1)  # [L, 1]
    ends = places[-1:] if lengths is None else lengths.reshape(-1, 1, 1) - 1  # [B, 1, 1]
    valid = places <= ends  # [B, L, 1]
    reverse = torch.where(valid, ends - places, places).expand(x.shape[0], length, 1)
    sides = [x, _taken(x, reverse)] if bidirectional else [x]
    given = torch.stack([side.transpose(0, 1) @ w.mT + b for side, w, b in zip(sides, w_ih, b_ih, strict=True)], 1)
    going = None if lengths is None else valid.transpose(0, 1)
    states, *last = steps(cell, given, going, mask, w_hh.mT, b_hh.unsqueeze(1), h, c)
    first, *second = states.permute(1, 2, 0, 3).unbind()  # [D, B, L, H]
    output = torch.cat([first, *(_taken(side, reverse) for side in second)], -1)
    return [output if lengths is None else torch.where(valid, output, 0.0), *last]


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """The steps [B, L, F] at int64 places [B, L, 1]."""
    return x.gather(1, places.expand(-1, -1, x.shape[2]))
