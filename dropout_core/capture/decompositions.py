"""Operators of torch that drop inside themselves, taken apart so that their noise becomes a site.

Only where they drop: without a rate they stay the fused operators that they are. Plain draws are in draws.py.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dropout_core.capture.draws import DRAWS
from dropout_core.layers.rnn_operator import GATES, rnn

_aten = torch.ops.aten


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled dot product attention, its dropout on the attention weights."""
    if dropout_p == 0:
        return NotImplemented
    if enable_gqa and key.shape[-3] != query.shape[-3]:  # several queries share a key and a value
        each = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(each, -3), value.repeat_interleave(each, -3)
    scores = (query * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(seen.logical_not(), -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    # a query that may see no key attends to nothing, as in torch
    weights = scores.softmax(-1).masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0.0)
    return F.dropout(weights, dropout_p, training=True) @ value


def _recurrent(cell: str) -> Any:
    """Recurrent layers, each one operator of its own, with dropout between them."""

    def taken_apart(  # noqa: PLR0913, PLR0917 - as torch has it
        x: Tensor,
        hx: Any,
        params: list[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        states = list(hx) if isinstance(hx, list | tuple) else [hx]
        if dropout == 0 or not train or num_layers == 1:
            return NotImplemented
        each = len(params) // num_layers
        projected = each > (1 + bidirectional) * (2 + 2 * has_biases)
        value, ends = x if batch_first else x.transpose(0, 1), []
        for layer in range(num_layers):
            begun = [state.narrow(0, layer * (1 + bidirectional), 1 + bidirectional) for state in states]
            weights = params[layer * each : (layer + 1) * each]
            if projected:  # only torch's own LSTM has projections; it fixes the length
                value, *end = torch.lstm(value, begun, weights, has_biases, 1, 0.0, False, bidirectional, True)
            else:
                value, *end = rnn(value, None, weights, None, *(*begun, None)[:2], cell, bidirectional)
            ends.append(end)
            if layer < num_layers - 1:
                value = F.dropout(value, dropout, training=True)
        joined = [torch.cat(parts) for parts in zip(*ends, strict=True)]
        return (value if batch_first else value.transpose(0, 1), *joined[: len(states)])

    return taken_apart


DECOMPOSITIONS: dict[Any, Any] = {
    **DRAWS,
    # Python's spelling of what has a name
    _aten.__and__.Tensor: torch.bitwise_and,
    _aten.__or__.Tensor: torch.bitwise_or,
    _aten.__xor__.Tensor: torch.bitwise_xor,
    _aten.scaled_dot_product_attention.default: _attention,
    **{getattr(_aten, cell).input: _recurrent(cell) for cell in GATES},
}
