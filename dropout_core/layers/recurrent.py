"""Dropout of recurrent networks: masks that are drawn once for a sequence and stay the same at every step.

With z_x on the input, z_h on the hidden state and z_y on the output, each 0 or 1 / (1 − p), one draw for each row and
unit, and V = W_hh diag(z_h), the same in all gates:

* LSTM: (i, f, o, g) = (σ, σ, σ, tanh)(W_ih (z_x ⊙ x_t) + V h_{t−1} + b), c_t = f ⊙ c_{t−1} + i ⊙ g,
  h_t = o ⊙ tanh(c_t);
* GRU: (r, u) = σ(W_ih (z_x ⊙ x_t) + V h_{t−1} + b), n = tanh(W_ih (z_x ⊙ x_t) + b_ih + r ⊙ (V h_{t−1} + b_hh)),
  h_t = (1 − u) ⊙ n + u ⊙ h_{t−1}; the state carried over is not masked;
* RNN: h_t = tanh(W_ih (z_x ⊙ x_t) + V h_{t−1} + b), or ReLU in place of tanh.

A layer returns z_y ⊙ h_t; the states it returns are not masked. Eval mode masks nothing.

References:
    Gal, Ghahramani 2016, arXiv 1512.05287, section 4.1, in the form with tied weights: there for an LSTM, with masks on
    the inputs and the hidden state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import Rate, RateLayer, capturing, checked_rank, mask
from dropout_core.layers.rnn_operator import check_lengths, fused, rnn
from dropout_core.layers.rnn_steps import RecurrentOutput, stepped

Nonlinearity = Literal["tanh", "relu"]
RecurrentState = Tensor | tuple[Tensor, Tensor]


def locked_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x · m / (1 − p) with one m ~ Bernoulli(1 − p) for each row and feature, the same at all steps.

    Args:
        x: Sequences [B, L, C].
        p: Drop probability of a feature.
        training: Whether to drop; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    return x * mask(x, (x.shape[0], 1, x.shape[2]), p) if training and p > 0 else x


class LockedDropout(RateLayer):
    """Drops features of a whole sequence: one mask for all its steps.

    The input is [B, L, C] and keeps its shape. Place the layer before, between and after recurrent layers, at p = 0.1
    … 0.5: noise that is new at each step would accumulate in their state. Eval mode returns the input.

    Args:
        p: Drop probability of a feature, between 0 and 1.

    Raises:
        InvalidInput: p is out of range, or the input has other axes.

    References:
        Gal, Ghahramani 2016, arXiv 1512.05287; by this name in Merity et al. 2018, arXiv 1708.02182.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of x."""
        checked_rank(x, (3,), "[B, L, C]")
        return locked_dropout(x, self.p, self.training)


@dataclass(frozen=True)
class RecurrentMasks:
    """The masks of one call, each 0 or 1 / (1 − p), or None where nothing is dropped.

    Attributes:
        input: [B, 1, F], on the input of the first layer.
        recurrent: [B, D, H] for each layer, with D directions.
        output: [B, 1, D · H] for each layer.
    """

    input: Tensor | None
    recurrent: Sequence[Tensor | None]
    output: Sequence[Tensor | None]


def variational_rnn(
    x: Tensor,
    weights: Sequence[Tensor],
    masks: RecurrentMasks,
    cell: str,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
    state: tuple[Tensor | None, Tensor | None] = (None, None),
    training: bool = True,
) -> RecurrentOutput:
    """Compute recurrent layers under given masks, by the module's equations.

    Args:
        x: Sequences [B, L, F].
        weights: Weights of all layers, in the order of nn.LSTM.
        masks: The masks.
        cell: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        bidirectional: Whether there are two directions.
        lengths: int64 [B], each 0 … L; all L by default.
        state: h_0 and c_0, [layers · D, B, H] each; zeros by default.
        training: Whether a gradient may be needed; masks apply in both cases.

    Returns:
        The output [B, L, D · H], which is 0 beyond a row's length, and h_n and c_n after each row's last step. c_n is
        empty for a cell that has none.
    """
    x, (h0, c0) = _times(x, masks.input), state
    if not capturing() and all(drawn is None for drawn in (*masks.recurrent, *masks.output[:-1])):
        x, h_n, c_n = fused(x, lengths, weights, h0, c0, cell, bidirectional, training)
        return _times(x, masks.output[-1]), h_n, c_n
    layers, ends = len(masks.recurrent), []
    parts = [_parts(weights, layers), *([None] * layers if part is None else _parts(part, layers) for part in state)]
    for own, h0, c0, recurrent, output in zip(*parts, masks.recurrent, masks.output, strict=True):
        if capturing():
            x, *end = rnn(x, lengths, own, recurrent, h0, c0, cell, bidirectional)
        elif recurrent is None:
            x, *end = fused(x, lengths, own, h0, c0, cell, bidirectional, training)
        else:
            x, *end = stepped(x, lengths, own, recurrent, h0, c0, cell, bidirectional)
        x = _times(x, output)
        ends.append(end)
    h_n, c_n = (torch.cat(part) for part in zip(*ends, strict=True))
    return x, h_n, c_n


def _times(x: Tensor, drawn: Tensor | None) -> Tensor:
    return x if drawn is None else x * drawn


def _parts(whole: Any, count: int) -> list[Any]:
    """Split a list or a tensor into parts of equal length."""
    each = len(whole) // count
    return [whole[part * each : (part + 1) * each] for part in range(count)]


class _VariationalRNN(nn.RNNBase):
    """What the layers below share: the weights of torch's layers, three rates, and the computation."""

    p_input, p_recurrent, p_output = Rate(), Rate(), Rate()
    _mode: str

    def __init__(  # noqa: PLR0913 - the arguments of nn.LSTM, and three rates
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        *,
        p_input: float = 0.0,
        p_recurrent: float = 0.0,
        p_output: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            self._mode, input_size, hidden_size, num_layers, bias, True, 0.0, bidirectional, device=device, dtype=dtype
        )
        self.p_input, self.p_recurrent, self.p_output = p_input, p_recurrent, p_output

    def forward(
        self, x: Tensor | PackedSequence, lengths: Tensor | None = None, state: RecurrentState | None = None
    ) -> tuple[Any, Any]:
        """Return the output and the final state.

        Args:
            x: Sequences [B, L, F], or a PackedSequence.
            lengths: int64 [B], each 0 … L; all L by default.
            state: State before the first step, as nn.LSTM, nn.GRU and nn.RNN take it.

        Returns:
            The output, in the form of x, and the final state.
        """
        if isinstance(x, PackedSequence):
            return self._packed(x, lengths, state)
        weights = [getattr(self, name) for name in self._flat_weights_names]
        states = self._states(x, state)
        if torch.is_autocast_enabled(x.device.type) and weights[0].dtype != torch.float64:
            # Here and not in torch's kernels, which cast each in its own way, and the operator not at all.
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weights = x.to(dtype), [weight.to(dtype) for weight in weights]
            states = [value.to(dtype) for value in states]
        self._check(x, lengths, weights[0].dtype)
        h0, c0 = (*states, None, None)[:2]
        output, h_n, c_n = variational_rnn(
            x, weights, self._masks(x), self.mode.lower(), self.bidirectional, lengths, (h0, c0), self.training
        )
        return output, (h_n, c_n) if self.mode == "LSTM" else h_n

    def extra_repr(self) -> str:
        """Return the arguments of torch's layer, and the rates."""
        rates = f"p_input={self.p_input}, p_recurrent={self.p_recurrent}, p_output={self.p_output}"
        return f"{super().extra_repr()}, {rates}"

    def _masks(self, x: Tensor) -> RecurrentMasks:
        directions, layers = 1 + self.bidirectional, range(self.num_layers)

        def draw(p: float, *shape: int) -> Tensor | None:
            return mask(x, (x.shape[0], *shape), p) if self.training and p > 0 else None

        return RecurrentMasks(
            draw(self.p_input, 1, self.input_size),
            [draw(self.p_recurrent, directions, self.hidden_size) for _ in layers],
            [draw(self.p_output, 1, directions * self.hidden_size) for _ in layers],
        )

    def _check(self, x: Tensor, lengths: Tensor | None, dtype: torch.dtype) -> None:
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != self.input_size:
            raise InvalidInput(
                f"the input has shape {list(x.shape)}; [B, L, {self.input_size}], with at least one step, is wanted."
            )
        if x.dtype != dtype:
            raise InvalidInput(f"the input is {x.dtype}; {dtype}, the type of the weights, is wanted.")
        if lengths is not None:
            check_lengths(lengths, x.shape[0], None if capturing() else x.shape[1])

    def _states(self, x: Tensor, state: RecurrentState | None) -> list[Tensor]:
        """Return h_0 and, in an LSTM, c_0; an empty list if they are zeros."""
        if state is None:
            return []
        parts = list(state) if isinstance(state, tuple) else [state]
        wanted = (self.num_layers * (1 + self.bidirectional), x.shape[0], self.hidden_size)
        count = 2 if self.mode == "LSTM" else 1
        if len(parts) != count or any(part.shape != wanted for part in parts):
            shapes = [list(part.shape) for part in parts]
            raise InvalidInput(f"the state has shapes {shapes}; {[list(wanted)] * count} is wanted.")
        return parts

    def _packed(
        self, x: PackedSequence, lengths: Tensor | None, state: RecurrentState | None
    ) -> tuple[PackedSequence, Any]:
        if capturing() or lengths is not None:
            raise InvalidInput(
                "a PackedSequence says its lengths itself, and none can be captured, for its sizes depend on values; "
                "give x as [B, L, F] and its lengths beside it, which works in training, too."
            )
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        output, end = self.forward(padded, lengths, state)
        if x.sorted_indices is not None:
            output, lengths = output.index_select(0, x.sorted_indices), lengths[x.sorted_indices.cpu()]
        return x._replace(data=pack_padded_sequence(output, lengths, batch_first=True).data), end


class VariationalLSTM(_VariationalRNN):
    """An LSTM with one mask per sequence on its inputs, its hidden state and its outputs.

    It accepts the weights of an nn.LSTM. Rows come first: [B, L, input_size] becomes [B, L, D · hidden_size] with D
    directions, and (h_n, c_n) are [layers · D, B, hidden_size] each. A PackedSequence is accepted and returned too,
    but cannot be captured. With `lengths`, the output is 0 beyond a row's length, h_n and c_n belong to its last step,
    the reverse direction starts there, and the padding has no effect.

    Usual rates are 0.1 … 0.3 for the input and the output and 0.1 … 0.5 for the state. Each rate may be set at any
    time. With p_recurrent = 0, training runs torch's fused kernel; otherwise it goes step by step. A sequence fed in
    parts has new masks in each part.

    Args:
        input_size: Number of input features.
        hidden_size: Number of hidden features H.
        num_layers: Number of layers.
        bias: Whether the layers have biases.
        bidirectional: Whether there are two directions.
        p_input: Drop probability of the features of the first layer's input.
        p_recurrent: Drop probability of the hidden state where it enters W_hh, for each layer and direction.
        p_output: Drop probability of the output of each layer, the last one too.
        device: Device of the weights.
        dtype: dtype of the weights.

    Raises:
        InvalidInput: A rate is outside 0 … 1, or inputs, lengths or states have another shape or dtype.

    References:
        Gal, Ghahramani 2016, arXiv 1512.05287; the module has the equations.
    """

    _mode = "LSTM"


class VariationalGRU(_VariationalRNN):
    """A GRU with one mask per sequence. It accepts the weights of an nn.GRU and returns one state, h_n.

    Only the state that enters W_hh is masked, not the one that is carried over. Arguments and shapes are those of
    VariationalLSTM.

    References:
        Gal, Ghahramani 2016, arXiv 1512.05287; the module has the equations.
    """

    _mode = "GRU"


class VariationalRNN(_VariationalRNN):
    """A simple recurrent layer with one mask per sequence. It accepts the weights of an nn.RNN and returns h_n.

    Shapes are those of VariationalLSTM.

    Args:
        *args: Positional arguments of VariationalLSTM.
        nonlinearity: "tanh" or "relu".
        **arguments: Keyword arguments of VariationalLSTM.

    References:
        Gal, Ghahramani 2016, arXiv 1512.05287; the module has the equations.
    """

    _mode = "RNN_TANH"

    def __init__(self, *args: Any, nonlinearity: Nonlinearity = "tanh", **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        if nonlinearity not in get_args(Nonlinearity):
            known = ", ".join(get_args(Nonlinearity))
            raise InvalidInput(f"nonlinearity is {nonlinearity!r}; it is one of {known}.")
        self.mode = f"RNN_{nonlinearity.upper()}"
