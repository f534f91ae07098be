import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dropout_core.errors import InvalidInput
from dropout_core.layers import VariationalLSTM, VariationalRNN
from dropout_core.layers.recurrent import RecurrentMasks, variational_rnn
from tests.support.recurrent import (
    CELLS,
    F64,
    LENGTHS,
    RATES,
    assert_same,
    drawn_masks,
    each_cell,
    either_way,
    flat,
    numbers,
    pair,
    seeded,
    slow_rnn,
    states,
)


@each_cell
@either_way
@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_without_masks_it_is_torchs_layer(cell, bidirectional, bias, layers):
    layer, torchs = pair(cell, num_layers=layers, bias=bias, bidirectional=bidirectional)
    x, (state, _) = numbers(5, 6, 3), states(cell, layer)
    for start in (None, state):
        assert_same(flat(layer(x, state=start)), flat(torchs(x, start)))
    for name, rate in RATES.items():
        setattr(layer, name, rate)
    layer.eval()
    assert_same(flat(layer(x)), flat(torchs.eval()(x)))


@each_cell
@either_way
def test_lengths_are_those_of_a_packed_sequence(cell, bidirectional):
    layer, torchs = pair(cell, num_layers=2, bidirectional=bidirectional)
    x, lengths, (state, _) = numbers(5, 6, 3), torch.tensor([3, 6, 1, 3, 4]), states(cell, layer)
    packed, end = torchs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), state)
    wanted = flat((pad_packed_sequence(packed, batch_first=True)[0], end))
    assert_same(flat(layer(x, lengths, state)), wanted)
    layer.p_recurrent = layer.p_input = layer.p_output = 0.5
    assert_same(flat(layer.eval()(x, lengths, state)), wanted)


@each_cell
@either_way
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all of L", "lengths"])
@pytest.mark.parametrize("without", [None, "input", "recurrent", "output"])
def test_under_given_masks_it_is_the_papers_equations(cell, bidirectional, lengths, without):
    layer, _ = pair(cell, num_layers=2, bidirectional=bidirectional)
    weights, x, masks = [w.detach() for w in layer._flat_weights], numbers(5, 5, 3), drawn_masks(layer)
    if without is not None:
        nothing = {"input": None, "recurrent": [None, None], "output": [None, None]}
        masks = RecurrentMasks(**{**vars(masks), without: nothing[without]})
    _, state = states(cell, layer)
    wanted = slow_rnn(cell, weights, x, masks, bidirectional, lengths, state)
    output, h_n, c_n = variational_rnn(x, weights, masks, cell, bidirectional, lengths, state)
    assert_same((output, h_n), wanted[:2])
    if cell == "lstm":
        assert_same([c_n], wanted[2:])
    else:
        assert c_n.numel() == 0


def test_a_layer_may_have_a_mask_where_the_next_has_none():
    layer, _ = pair("gru", num_layers=3)
    weights, x, masks = [w.detach() for w in layer._flat_weights], numbers(5, 5, 3), drawn_masks(layer)
    for recurrent, output in (([0, 1, 0], [0, 0, 1]), ([0, 0, 0], [1, 0, 0]), ([0, 0, 1], [0, 0, 0])):
        kept = [
            [mask if on else None for mask, on in zip(drawn, which, strict=True)]
            for drawn, which in ((masks.recurrent, recurrent), (masks.output, output))
        ]
        some = RecurrentMasks(None, *kept)
        assert_same(variational_rnn(x, weights, some, "gru")[:2], slow_rnn("gru", weights, x, some)[:2])


@each_cell
@either_way
def test_the_layer_draws_these_masks_and_no_others(cell, bidirectional):
    """[B, D, H] for a layer's state: no step and no gate has a mask of its own."""
    layer, _ = pair(cell, num_layers=2, bidirectional=bidirectional)
    x, sides = numbers(5, 6, 3), 1 + bidirectional
    for name, rate in RATES.items():
        setattr(layer, name, rate)
    masks = seeded(layer._masks, x)
    assert masks.input.shape == (5, 1, 3)
    assert [mask.shape for mask in masks.recurrent] == [(5, sides, 4)] * 2
    assert [mask.shape for mask in masks.output] == [(5, 1, sides * 4)] * 2
    each = [(RATES["p_input"], [masks.input]), (RATES["p_recurrent"], masks.recurrent)]
    for rate, drawn in [*each, (RATES["p_output"], masks.output)]:
        values = torch.cat([mask.flatten() for mask in drawn])
        assert torch.allclose(values[values != 0], torch.tensor(1 / (1 - rate), dtype=F64), rtol=1e-12)
    given = variational_rnn(x, layer._flat_weights, masks, cell, bidirectional)
    assert_same(flat(seeded(layer, x)), given[: 3 if cell == "lstm" else 2])


def echo(**rates):
    """h_t = ReLU(x_t + V h_{t−1}): an RNN in which every mask can be read off the output."""
    layer = VariationalRNN(4, 4, bias=False, nonlinearity="relu", dtype=F64, **rates)
    for weight in layer.parameters():
        nn.init.eye_(weight)
    return layer


def test_the_input_mask_is_that_of_a_sequence():
    layer = echo(p_input=0.5)
    nn.init.zeros_(layer.weight_hh_l0)
    y = seeded(layer, torch.ones(60, 5, 4, dtype=F64))[0]
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert (y == y[:, :1]).all()
    assert len(y[:, 0].unique(dim=0)) == 16  # rows have masks of their own


def test_the_recurrent_mask_is_that_of_a_sequence():
    x = torch.zeros(60, 5, 4, dtype=F64)
    x[:, 0] = 1
    y = seeded(echo(p_recurrent=0.5), x)[0]
    kept = y[:, 1] / 2
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    for step in range(1, 5):
        assert torch.equal(y[:, step], kept * 2**step)
    assert len(kept.unique(dim=0)) == 16


def test_the_output_mask_is_that_of_a_sequence_and_does_not_reach_the_state():
    x = torch.ones(60, 5, 4, dtype=F64)
    y, h_n = seeded(echo(p_output=0.5), x)
    kept = y[:, 0] / 2
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(y, kept.unsqueeze(1) * 2 * torch.arange(1.0, 6.0, dtype=F64).reshape(1, 5, 1))
    assert (h_n == 5).all()
    assert len(kept.unique(dim=0)) == 16


def test_directions_have_masks_of_their_own():
    layer = VariationalRNN(4, 4, bias=False, bidirectional=True, nonlinearity="relu", p_recurrent=0.5, dtype=F64)
    for weight in layer.parameters():
        nn.init.eye_(weight)
    _, h_n = seeded(layer, torch.ones(60, 2, 4, dtype=F64))
    agree = (h_n[0] == h_n[1]).double().mean()
    assert abs(agree - 0.5) < 5 * math.sqrt(0.25 / 240)


@each_cell
@either_way
@pytest.mark.parametrize("rate", [0.0, 0.4], ids=["fused", "by steps"])
def test_what_stands_in_the_padding_has_no_say(cell, bidirectional, rate):
    layer, _ = pair(cell, num_layers=2, bidirectional=bidirectional)
    layer.p_recurrent = rate
    x, beyond = numbers(5, 5, 3), torch.arange(5) >= LENGTHS.unsqueeze(1)
    wanted = flat(seeded(layer, x, LENGTHS))
    spoilt = x.masked_fill(beyond.unsqueeze(-1), math.nan)
    longer = torch.cat([spoilt, numbers(5, 2, 3)], 1)
    assert_same(flat(seeded(layer, spoilt, LENGTHS)), wanted)
    output, *ends = flat(seeded(layer, longer, LENGTHS))
    assert_same([output[:, :5], *ends], wanted)
    assert not output[:, 5:].any()
    assert not wanted[0][beyond].any()
    assert wanted[0][~beyond].any(1).all()
    spoilt.requires_grad_()
    sum(part.sum() for part in flat(seeded(layer, spoilt, LENGTHS))).backward()
    assert not spoilt.grad[beyond].any()
    assert spoilt.grad[~beyond].any(1).all()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())


@pytest.mark.parametrize("rate", [0.0, 0.4], ids=["fused", "by steps"])
def test_a_row_of_no_steps_keeps_its_state(rate):
    layer, _ = pair("lstm", num_layers=2, bidirectional=True)
    layer.p_recurrent = rate
    state, _ = states("lstm", layer)
    _, (h_n, c_n) = seeded(layer, numbers(5, 5, 3), LENGTHS, state)
    assert torch.equal(h_n[:, 2], state[0][:, 2])
    assert torch.equal(c_n[:, 2], state[1][:, 2])


@each_cell
def test_gradients_reach_the_states_and_come_from_them(cell):
    """The laws look at the output alone."""
    layer, _ = pair(cell, num_layers=2, bidirectional=True)
    x, (_, state), masks = numbers(3, 3, 3), states(cell, layer, 3), drawn_masks(layer, 3)
    starts = [start for start in state if start is not None]
    inputs = [value.detach().requires_grad_() for value in (x, *starts, *layer._flat_weights)]

    def run(x, *rest):
        h0, c0 = (*rest[: len(starts)], None)[:2]
        weights, lengths = rest[len(starts) :], torch.tensor([3, 0, 2])
        outcome = variational_rnn(x, weights, masks, cell, True, lengths, (h0, c0))
        return [part for part in outcome if part.numel()]

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("rates", [{}, {"p_output": 0.3}, RATES], ids=["none", "outputs", "all"])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_packed_sequence_comes_back_in_its_own_order(rates, ordered):
    layer, torchs = pair("lstm", num_layers=2, bidirectional=True)
    for name, rate in rates.items():
        setattr(layer, name, rate)
    x, lengths = numbers(4, 5, 3), torch.tensor([5, 3, 3, 1]) if ordered else torch.tensor([3, 1, 5, 3])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=ordered)
    state, _ = states("lstm", layer, 4)
    output, end = seeded(layer, packed, None, state)
    padded, *wanted = flat(seeded(layer, x, lengths, state))
    unpacked, found = pad_packed_sequence(output, batch_first=True)
    assert torch.equal(found, lengths)
    assert_same([unpacked, *end], [padded, *wanted])
    theirs = torchs(packed, state)[0]
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        ours, given = getattr(output, name), getattr(theirs, name)
        assert given is None if ours is None else torch.equal(ours, given)
    if not rates:
        assert_same([output.data], [theirs.data])


def test_names_shapes_and_beginnings_are_those_of_torch():
    for ours, theirs, own in CELLS.values():
        layer, torchs = (
            seeded(lambda make=make, own=own: make(3, 4, 2, bidirectional=True, **own)) for make in (ours, theirs)
        )
        assert list(layer.state_dict()) == list(torchs.state_dict())
        assert all(torch.equal(layer.state_dict()[name], value) for name, value in torchs.state_dict().items())
        torchs.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("name", RATES)
def test_each_rate_is_checked_by_its_name_and_may_be_set_later(name):
    with pytest.raises(InvalidInput, match=f"{name} is 1.5; a drop probability"):
        VariationalLSTM(3, 4, **{name: 1.5})
    layer, x = VariationalLSTM(3, 4, dtype=F64), numbers(5, 6, 3)
    quiet = layer(x)[0]
    with pytest.raises(InvalidInput, match=name):
        setattr(layer, name, -0.1)
    assert torch.equal(layer(x)[0], quiet)
    setattr(layer, name, 0.5)
    assert f"{name}=0.5" in repr(layer)
    assert not torch.equal(seeded(layer, x)[0], quiet)
    assert torch.equal(layer.eval()(x)[0], quiet)


def test_an_empty_batch_and_a_single_step_are_answered():
    for rates in ({}, RATES):
        layer = VariationalLSTM(3, 4, 2, bidirectional=True, dtype=F64, **rates)
        output, (h_n, c_n) = layer(numbers(0, 5, 3), torch.zeros(0, dtype=torch.int64))
        assert (output.shape, h_n.shape, c_n.shape) == ((0, 5, 8), (4, 0, 4), (4, 0, 4))
        assert layer(numbers(2, 1, 3))[0].shape == (2, 1, 8)


_LENGTHS = {
    "of another type": torch.tensor([3, 3], dtype=torch.int32),
    "of another shape": torch.tensor([3]),
    "of two axes": torch.tensor([[3, 3]]),
    "beyond L": torch.tensor([3, 6]),
    "below 0": torch.tensor([3, -1]),
}


@pytest.mark.parametrize("lengths", _LENGTHS.values(), ids=_LENGTHS)
def test_lengths_that_are_none_are_refused(lengths):
    with pytest.raises(InvalidInput, match=r"the lengths .* is wanted"):
        VariationalLSTM(3, 4, dtype=F64)(numbers(2, 5, 3), lengths)


def test_states_that_do_not_fit_are_refused():
    one, x = torch.zeros(1, 2, 4), torch.zeros(2, 5, 3)
    for make, state in (
        (VariationalLSTM, one),
        (VariationalLSTM, (one, one[..., :3])),
        (VariationalLSTM, (one, one, one)),
        (VariationalRNN, (one, one)),
        (VariationalRNN, one[:, :1]),
        (VariationalRNN, one[0]),
    ):
        with pytest.raises(InvalidInput, match=r"the state has shapes .*\[1, 2, 4\].* is wanted"):
            make(3, 4)(x, state=state)


def test_other_wrong_arguments_are_refused():
    with pytest.raises(InvalidInput, match=r"float64; torch.float32, the type of the weights, is wanted"):
        VariationalLSTM(3, 4)(numbers(2, 5, 3))
    with pytest.raises(InvalidInput, match="'sigmoid'; it is one of tanh, relu"):
        VariationalRNN(3, 4, nonlinearity="sigmoid")
    packed = pack_padded_sequence(torch.zeros(2, 5, 3), torch.tensor([5, 2]), batch_first=True)
    with pytest.raises(InvalidInput, match="a PackedSequence says its lengths itself"):
        VariationalLSTM(3, 4)(packed, torch.tensor([5, 2]))
    with pytest.raises(TypeError, match="batch_first"):
        VariationalLSTM(3, 4, batch_first=False)
