"""Recurrent layers once more, the slow way: one row, one step, one gate at a time; and layers to compare with it."""

import pytest
import torch
from torch import Tensor, nn

from dropout_core.layers import VariationalGRU, VariationalLSTM, VariationalRNN
from dropout_core.layers.recurrent import RecurrentMasks
from tests.support.captured import made


def sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-z))


def lstm_step(gate, x, masked, h, c):
    """gate(k, x, h): gate k of the weights, with both biases, or with those of the input and of the state alone."""
    i, f, o = (sigmoid(gate(k, x, masked)) for k in (0, 1, 3))
    c = f * c + i * torch.tanh(gate(2, x, masked))
    return o * torch.tanh(c), c


def gru_step(gate, x, masked, h, c):
    r, u = (sigmoid(gate(k, x, masked)) for k in (0, 1))
    new = torch.tanh(gate(2, x, None) + r * gate(2, None, masked))
    return (1 - u) * new + u * h, c


def tanh_step(gate, x, masked, h, c):
    return torch.tanh(gate(0, x, masked)), c


def relu_step(gate, x, masked, h, c):
    return gate(0, x, masked).clamp(min=0), c


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn_tanh": tanh_step, "rnn_relu": relu_step}


def one_direction(cell, weights, x, mask, h, c):
    """Outputs [L, H] of one row's steps x [L, F], and the last h and c."""
    w_ih, w_hh, b_ih, b_hh = (*weights, None, None)[:4]
    size, outputs = len(h), []

    def gate(k, step, state):
        rows, total = slice(k * size, (k + 1) * size), torch.zeros(size, dtype=h.dtype)
        for weight, bias, value in ((w_ih, b_ih, step), (w_hh, b_hh, state)):
            if value is not None:
                total = total + (weight[rows] * value).sum(1) + (0 if bias is None else bias[rows])
        return total

    for step in x:
        h, c = STEPS[cell](gate, step, h * mask, h, c)
        outputs.append(h)
    return outputs, h, c


def slow_rnn(cell, weights, x, masks, bidirectional=False, lengths=None, state=None):
    """Output [B, L, D · H], h_n and c_n [layers · D, B, H] of layers.recurrent.variational_rnn."""
    rows, length, _ = x.shape
    layers, directions = len(masks.recurrent), 1 + bidirectional
    each, size = len(weights) // (layers * directions), weights[1].shape[1]
    zeros = torch.zeros(layers * directions, rows, size, dtype=x.dtype)
    h_n, c_n = (zeros.clone() if start is None else start.clone() for start in (*(state or ()), None, None)[:2])
    output = torch.zeros(rows, length, directions * size, dtype=x.dtype)
    for row in range(rows):
        last = length if lengths is None else int(lengths[row])
        steps = list(x[row, :last] * (1 if masks.input is None else masks.input[row]))
        for layer in range(layers):
            sides = []
            for direction in range(directions):
                place, drawn = layer * directions + direction, masks.recurrent[layer]
                mask = torch.ones(size, dtype=x.dtype) if drawn is None else drawn[row, direction]
                own, start = weights[place * each : (place + 1) * each], (h_n[place, row], c_n[place, row])
                outputs, h, c = one_direction(cell, own, steps[::-1] if direction else steps, mask, *start)
                h_n[place, row], c_n[place, row] = h, c
                sides.append(outputs[::-1] if direction else outputs)
            after = 1 if masks.output[layer] is None else masks.output[layer][row, 0]
            steps = [torch.cat(parts) * after for parts in zip(*sides, strict=True)]
        for step, value in enumerate(steps):
            output[row, step] = value
    return output, h_n, c_n


F64 = torch.float64
RATES = {"p_input": 0.3, "p_recurrent": 0.4, "p_output": 0.2}
LENGTHS = torch.tensor([5, 2, 0, 1, 4])
CELLS = {
    "lstm": (VariationalLSTM, nn.LSTM, {}),
    "gru": (VariationalGRU, nn.GRU, {}),
    "rnn_tanh": (VariationalRNN, nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (VariationalRNN, nn.RNN, {"nonlinearity": "relu"}),
}
each_cell = pytest.mark.parametrize("cell", CELLS)
either_way = pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def pair(cell, **arguments):
    """Ours and torch's, with the same weights."""
    ours, theirs, own = CELLS[cell]
    torchs = made(lambda: theirs(3, 4, batch_first=True, dtype=F64, **own, **arguments))
    layer = ours(3, 4, dtype=F64, **own, **arguments)
    layer.load_state_dict(torchs.state_dict())
    return layer, torchs


def states(cell, layer, rows=5):
    """A state before the first step, as the layer takes it, and as a pair with None."""
    shape = (layer.num_layers * (1 + layer.bidirectional), rows, layer.hidden_size)
    h, c = numbers(*shape, seed=1), numbers(*shape, seed=2)
    return ((h, c), (h, c)) if cell == "lstm" else (h, (h, None))


def flat(result):
    """Output and states as a flat list."""
    output, end = result
    return [output, *(end if isinstance(end, tuple) else [end])]


def assert_same(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def drawn_masks(layer, rows=5, seed=3):
    """Masks of 0 and 2, given by hand: all three kinds at all layers."""
    generator = torch.Generator().manual_seed(seed)
    directions = 1 + layer.bidirectional

    def draw(*shape):
        return torch.randint(0, 2, (rows, *shape), generator=generator) * torch.tensor(2.0, dtype=F64)

    layers = range(layer.num_layers)
    size = layer.hidden_size
    recurrent, output = [draw(directions, size) for _ in layers], [draw(1, directions * size) for _ in layers]
    return RecurrentMasks(draw(1, layer.input_size), recurrent, output)


def seeded(function, *args, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*args)
