"""A recurrent layer step by step in plain tensor operations, for masks that few rows share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

RecurrentOutput = tuple[Tensor, Tensor, Tensor]


def stepped(
    x: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
    mask: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    bidirectional: bool,
) -> RecurrentOutput:
    """Compute one layer whose hidden state enters W_hh times a mask.

    The directions run side by side, [D, B, *]; the second has the steps of each row in reverse.

    Args:
        x: Sequences [B, L, F].
        lengths: int64 [B], each 0 … L; None for all L.
        weights: Weights in the order of nn.LSTM.
        mask: [B, D, H].
        h0: State before the first step; None for zeros.
        c0: Cell state before the first step; None for zeros.
        cell: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        bidirectional: Whether there are two directions.

    Returns:
        As `rnn_operator.fused`.
    """
    each = len(weights) // (1 + bidirectional)
    w_ih, w_hh, *biases = (torch.stack(tuple(weights[kind::each])) for kind in range(each))
    b_ih, b_hh = (bias.unsqueeze(1) for bias in biases) if biases else (x.new_zeros(1), x.new_zeros(1))
    steps = torch.arange(x.shape[1], device=x.device).unsqueeze(-1)
    last = (steps[-1:] if lengths is None else lengths.to(x.device).reshape(-1, 1, 1) - 1).expand(x.shape[0], 1, 1)
    valid = steps <= last  # [B, L, 1]
    reverse = torch.where(valid, last - steps, steps)
    if lengths is not None:
        x = torch.where(valid, x, 0.0)  # so that no NaN of the padding reaches a gradient
    sides = [x, x.take_along_dim(reverse, 1)] if bidirectional else [x]
    given = b_ih + torch.stack([side.transpose(0, 1) @ w.mT for side, w in zip(sides, w_ih, strict=True)], 1)
    zeros = x.new_zeros((len(w_hh), x.shape[0], w_hh.shape[2]))
    h = zeros if h0 is None else h0
    c = (zeros if cell == "lstm" else zeros[..., :0]) if c0 is None else c0
    advance, kept, columns, states = _CELLS[cell], mask.transpose(0, 1), w_hh.mT, []
    for now, going in zip(given.unbind(), valid.unbind(1), strict=True):
        following = advance(now, torch.baddbmm(b_hh, h * kept, columns), h, c)
        if lengths is not None:
            following = torch.where(going, following[0], h), torch.where(going, following[1], c)
        h, c = following
        states.append(h)
    first, *second = torch.stack(states, 2)
    output = torch.cat([first, *(side.take_along_dim(reverse, 1) for side in second)], -1)
    return output if lengths is None else torch.where(valid, output, 0.0), h, c


def _lstm(given: Tensor, recurrent: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (given + recurrent).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(given: Tensor, recurrent: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    (r, u, n), (r_h, u_h, n_h) = given.chunk(3, -1), recurrent.chunk(3, -1)
    new = (n + (r + r_h).sigmoid() * n_h).tanh()
    return new + (u + u_h).sigmoid() * (h - new), c


def _tanh(given: Tensor, recurrent: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return (given + recurrent).tanh(), c


def _relu(given: Tensor, recurrent: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return (given + recurrent).relu(), c


# From what the input and the state give to the gates, and h and c before the step: h and c after it.
_CELLS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _tanh,
    "rnn_relu": _relu,
}
