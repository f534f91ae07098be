"""Recurrent layers in Monte Carlo passes: one operator a layer, one network a pass."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import CaptureError
from dropout_core.graph.program import Operation
from dropout_core.layers import VariationalGRU, VariationalLSTM
from dropout_core.layers.recurrent import RecurrentMasks
from dropout_core.predict import predict
from dropout_core.verify import is_the_model, verify
from tests.support.captured import made
from tests.support.moments import Padded, Sequences, padded
from tests.support.recurrent import CELLS, F64, RATES, each_cell, numbers, seeded, slow_rnn


class States(nn.Module):
    """The final state of a layer that begins with one of the network's own."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        start = x[:, 0].expand(2, -1, -1).tanh()
        _, (h_n, c_n) = self.layer(x, state=(start, -start))
        return torch.cat([h_n, c_n], -1).transpose(0, 1).flatten(1)


class Mixed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x)[0].float().flatten(1)


class Packed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        packed, _ = self.layer(pack_padded_sequence(x, torch.full((x.shape[0],), 5), batch_first=True))
        return pad_packed_sequence(packed, batch_first=True)[0].flatten(1)


def verified(net, x):
    program = capture(net, x)
    engine = Engine(program)
    is_the_model(program, net, x)
    verify(program, engine, x, "mean")
    return program, engine


def passes(captured, x, count, seed=0):
    program, engine = captured
    return torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, x, PassOptions(count, seed, sampling="iid"))]
    )


def operators(program):
    """The recurrent operators of a program, torch's and ours."""
    names = [str(node.target) for node in program.graph.nodes if isinstance(node, Operation)]
    return [name for name in names if any(word in name for word in ("rnn", "lstm", "gru"))]


@torch.no_grad()
@each_cell
def test_each_pass_is_one_of_the_networks_and_as_often_as_its_masks_are(cell):
    """All masks of a layer of two units, two of its state and two of its output, for two rows at once."""
    ours, _, own = CELLS[cell]
    p, q, count = 0.3, 0.4, 2000
    layer = made(lambda: ours(2, 2, p_recurrent=p, p_output=q, dtype=F64, **own))
    if cell == "rnn_relu":  # so that no state is 0, whichever masks there are
        for value in layer.parameters():
            value.abs_()
    x, weights = numbers(2, 3, 2).abs(), layer._flat_weights
    drawn = passes(verified(nn.Sequential(Sequences(layer), nn.Flatten()), x), x, count)
    probabilities, outputs = [], []
    for kept in product((0.0, 1.0), repeat=4):
        masks = torch.tensor(kept, dtype=F64)
        recurrent, output = masks[:2].expand(2, 1, 2) / (1 - p), masks[2:].expand(2, 1, 2) / (1 - q)
        outputs.append(slow_rnn(cell, weights, x, RecurrentMasks(None, [recurrent], [output]))[0].flatten(1))
        probabilities.append(math.prod((1 - r if k else r) for k, r in zip(kept, (p, p, q, q), strict=True)))
    outputs, weight = torch.stack(outputs), torch.tensor(probabilities, dtype=F64).reshape(-1, 1, 1)
    assert ((drawn.unsqueeze(1) - outputs).abs().amax((2, 3)) < 1e-12).any(1).all()

    mean = (weight * outputs).sum(0)
    variance = (weight * (outputs - mean).square()).sum(0)
    fourth = (weight * (outputs - mean) ** 4).sum(0)
    assert ((drawn.mean(0) - mean).abs() <= 5 * (variance / count).sqrt() + 1e-12).all()
    spread = ((drawn - mean).square().mean(0) - variance).abs()
    assert (spread <= 5 * ((fourth - variance.square()) / count).sqrt() + 1e-12).all()


@torch.no_grad()
@pytest.mark.parametrize("rates", [{"p_input": 0.3}, {"p_output": 0.3}, RATES], ids=["input", "output", "all"])
def test_a_layer_is_one_operator_and_never_torchs_own(rates):
    net = nn.Sequential(Sequences(made(lambda: VariationalGRU(3, 4, 3, bidirectional=True, **rates))), nn.Flatten())
    program, _ = verified(net, numbers(4, 5, 3).float())
    assert operators(program) == ["mcdrop.rnn.default"] * 3


@pytest.mark.parametrize("make", [Sequences, Padded])
@pytest.mark.parametrize("rates", [{}, RATES], ids=["quiet", "noisy"])
def test_one_export_serves_all_lengths(make, rates):
    net = made(lambda: make(VariationalLSTM(3, 4, 2, bidirectional=True, dtype=F64, **rates)))
    dynamic = ({0: Dim("rows"), 1: Dim("length")},)
    exported = torch.export.export(net.train(), (numbers(4, 5, 3),), dynamic_shapes=dynamic, strict=False).module()
    for rows, length in ((2, 7), (5, 1), (1, 3)):
        x = numbers(rows, length, 3)
        assert torch.allclose(seeded(exported, x), seeded(net, x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_an_answer_does_not_depend_on_how_far_a_sequence_is_padded():
    layer = made(lambda: VariationalLSTM(3, 4, 2, bidirectional=True, dtype=F64, **RATES))
    net = nn.Sequential(Padded(layer), nn.Flatten())
    short = padded((5, 4, 3), torch.Generator().manual_seed(0)).double()
    long = torch.cat([short, torch.zeros(5, 3, 3, dtype=F64)], 1)
    answers = passes(verified(net, short), short, 8)
    captured = verified(net, long)
    longer = passes(captured, long, 8)
    assert torch.allclose(longer[..., : 4 * 8], answers, rtol=0, atol=1e-12)
    assert not longer[..., 4 * 8 :].any()
    garbage = long + 0.2 * (long == 0)  # below what counts as a step
    assert torch.allclose(passes(captured, garbage, 8), longer, rtol=0, atol=1e-12)


@torch.no_grad()
def test_states_of_the_network_itself_are_carried_in_and_out():
    net = made(lambda: States(VariationalLSTM(4, 4, bidirectional=True, p_recurrent=0.5, dtype=F64)))
    x = numbers(3, 5, 4)
    captured = verified(net, x)
    drawn = passes(captured, x, 4)
    one_by_one = torch.cat([passes(captured, x[row : row + 1], 4) for row in range(3)], 1)
    assert torch.allclose(drawn, one_by_one, rtol=0, atol=1e-12)
    assert not torch.allclose(drawn[0], drawn[1])


@torch.no_grad()
def test_autocast_sets_the_type_in_a_capture_as_it_does_outside():
    verified(made(lambda: Mixed(VariationalLSTM(3, 4, p_recurrent=0.3))), numbers(4, 5, 3).float())
    for layer in (VariationalLSTM(3, 4), VariationalGRU(3, 4, p_recurrent=0.3)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(numbers(4, 5, 3).float())[0].dtype == torch.bfloat16
            assert layer.double()(numbers(4, 5, 3))[0].dtype == F64


def test_a_packed_sequence_is_for_training_alone():
    layer, x = VariationalLSTM(3, 4, p_recurrent=0.3), torch.zeros(2, 5, 3)
    assert Packed(layer)(x).shape == (2, 20)
    with pytest.raises(CaptureError, match=r"give x as \[B, L, F\] and its lengths beside it"):
        capture(Packed(layer), x)


def test_a_rate_that_is_set_later_holds_for_the_next_answer():
    layer = made(lambda: VariationalLSTM(3, 4, p_recurrent=0.2))
    net, x = nn.Sequential(Sequences(layer), nn.Flatten()), numbers(2, 5, 3).float()
    before = predict(net, x, output="mean").variance
    layer.p_recurrent = 0.6
    assert predict(net, x, output="mean").variance.mean() > 2 * before.mean()
