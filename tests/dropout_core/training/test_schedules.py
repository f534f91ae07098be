import io
import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dropout_core import layers, training
from dropout_core.errors import InvalidInput
from dropout_core.training import (
    Adaptive,
    Constant,
    Curriculum,
    Curve,
    Decay,
    Early,
    LinearRamp,
    RateSchedule,
    StepTable,
)


def network():
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 3), layers.Dropout(0.2)),
        nn.Dropout(0.5),
        nn.Linear(3, 3),
        layers.GaussianDropout(0.1),
    )


def rates(net):
    return [layer.p for layer in net.modules() if hasattr(layer, "p")]


def test_two_lines_make_a_schedule_as_the_module_says():
    model, batches, seen = network(), [(torch.ones(2, 3), torch.ones(2, 3))] * 3, []
    lines = [line[4:] for line in training.__doc__.splitlines() if line.startswith("    ")][1:]
    loop = "\n".join(lines).replace("10_000", "4").replace("...", "seen.append(rates(model))")
    exec(loop, {**vars(training), "model": model, "batches": batches, "rates": rates, "seen": seen})
    assert seen == [pytest.approx([0.2 * t, 0.5 * t, 0.1 * t]) for t in (0, 0.25, 0.5)]
    assert rates(model) == pytest.approx([0.15, 0.375, 0.075])


def test_each_layer_gets_the_factor_times_its_own_rate_and_uses_it():
    net = network()
    schedule = RateSchedule(net, StepTable({0: 1.0, 2: 0.0, 3: 1.5}))
    assert (schedule.factor, schedule.rates) == (1.0, {"0.1.p": 0.2, "1.p": 0.5, "3.p": 0.1})
    schedule.step()
    assert rates(net) == [0.2, 0.5, 0.1]
    schedule.step()
    assert rates(net) == [0, 0, 0]
    x = torch.randn(4, 3)
    assert torch.equal(net.train()(x), net.eval()(x))
    schedule.step()
    assert rates(net) == pytest.approx([0.3, 0.75, 0.15])
    assert schedule.rates == dict(zip(["0.1.p", "1.p", "3.p"], rates(net), strict=True))


def with_rates():
    """A layer for every kind of drop probability, and what it is at half of it."""
    return {
        layers.DropBlock2d(0.2, 3): {"p": 0.1},
        layers.DropConnectLinear(3, 3, 0.2): {"p": 0.1},
        layers.DropConnectConv2d(3, 3, 1, p=0.2): {"p": 0.1},
        layers.EmbeddingDropout(3, 3, 0.2): {"p": 0.1},
        layers.WordDropout(0.2, 0): {"p": 0.1},
        layers.MultiheadAttention(4, 2, 0.2): {"p": 0.1, "dropout": 0.1},
        layers.VariationalLSTM(3, 3, p_input=0.2, p_recurrent=0.4, p_output=0.6): {
            "p_input": 0.1,
            "p_recurrent": 0.2,
            "p_output": 0.3,
        },
        layers.VariationalGRU(3, 3, p_recurrent=0.4): {"p_input": 0, "p_recurrent": 0.2, "p_output": 0},
        **{kind(0.2): {"p": 0.1} for kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)},
        nn.AlphaDropout(0.2): {"p": 0.1},
        nn.FeatureAlphaDropout(0.2): {"p": 0.1},
        nn.MultiheadAttention(4, 2, dropout=0.2): {"dropout": 0.1},
        nn.LSTM(3, 3, num_layers=2, dropout=0.2): {"dropout": 0.1},
        nn.GRU(3, 3, num_layers=2, dropout=0.2): {"dropout": 0.1},
    }


def test_every_kind_of_rate_is_driven():
    for layer, halves in with_rates().items():
        schedule = RateSchedule(layer, Constant(0.5))
        assert {name: getattr(layer, name) for name in halves} == halves
        assert set(schedule.rates) == set(halves) - ({"dropout"} if "p" in halves else set())
    halves = list(with_rates().items())
    RateSchedule([layer for layer, _ in halves], Constant(0.5))
    for layer, wanted in halves:
        assert {name: getattr(layer, name) for name in wanted} == wanted


def test_layers_are_chosen_by_hand_by_name_and_by_kind():
    net = network()
    schedule = RateSchedule([net[0], net[3]], Constant(0.5))
    assert rates(net) == [0.1, 0.5, 0.05]
    assert list(schedule.rates) == ["0.1.p", "1.p"]
    net = network()
    RateSchedule(net, Constant(0.5), only=lambda name, layer: name.startswith("1."))
    assert rates(net) == [0.2, 0.25, 0.1]
    net = network()
    RateSchedule(net, Constant(0.5), only=lambda name, layer: isinstance(layer, layers.GaussianDropout))
    assert rates(net) == [0.2, 0.5, 0.05]
    recurrent = layers.VariationalLSTM(3, 3, p_input=0.2, p_recurrent=0.4)
    RateSchedule(recurrent, Constant(0.5), only=lambda name, layer: name == "p_recurrent")
    assert (recurrent.p_input, recurrent.p_recurrent) == (0.2, 0.2)


def test_a_layer_in_several_places_is_driven_once():
    shared = layers.Dropout(0.2)
    schedule = RateSchedule([nn.Sequential(shared, shared), shared], Constant(0.5))
    assert schedule.rates == {"0.0.p": 0.1}
    assert shared.p == 0.1


def test_one_rate_for_all_layers_makes_a_curve_of_rates():
    net = network()
    schedule = RateSchedule(net, StepTable({0: 0.1, 1: 0.3}), p=1.0)
    assert rates(net) == [0.1, 0.1, 0.1]
    schedule.step()
    assert rates(net) == [0.3, 0.3, 0.3]
    off = nn.Dropout(0.0)
    RateSchedule([off], Constant(), p=0.4)
    assert off.p == 0.4


def test_learned_rates_are_not_driven():
    net = nn.Sequential(layers.ConcreteDropout(0.2), layers.VariationalLinear(3, 3, 0.2), layers.Dropout(0.3))
    assert list(RateSchedule(net, Constant(0.5)).rates) == ["2.p"]
    assert float(net[0].p.detach()) == pytest.approx(0.2)


CURVES = [Constant(0.7), LinearRamp(6), Decay(0.8), Curriculum(8), Early(5), StepTable({0: 0.2, 4: 1.0}), Adaptive()]
LOSSES = [(1.0 - 0.05 * t + (t % 3) * 0.04, 1.0 + 0.03 * t * (t % 4)) for t in range(40)]


def ran(net, curve, start, stop, state=None):
    """The rates after each step from start to stop, and the state at the end."""
    schedule, found = RateSchedule(net, curve), []
    if state is not None:
        schedule.load_state_dict(state)
        found.append(rates(net))
    for train, validation in LOSSES[start:stop]:
        losses = {"train_loss": train, "validation_loss": validation} if isinstance(curve, Adaptive) else {}
        schedule.step(**losses)
        found.append(rates(net))
    return found, schedule.state_dict()


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: type(curve).__name__)
@pytest.mark.parametrize("stored", ["json", "torch"])
def test_a_training_that_goes_on_has_the_rates_of_one_that_never_stopped(curve, stored):
    whole, end = ran(network(), curve, 0, 40)
    before, state = ran(network(), curve, 0, 17)
    if stored == "json":
        state = json.loads(json.dumps(state))
    else:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    after, again = ran(network(), curve, 17, 40, state)
    assert before + after[1:] == whole
    assert after[0] == before[-1]
    assert again == end
    assert len({tuple(each) for each in whole}) > 1 or isinstance(curve, Constant)


def test_a_network_that_was_stored_in_the_middle_of_a_training_goes_on_alike():
    net = network()
    _, state = ran(net, LinearRamp(6), 0, 3)
    assert rates(net) == pytest.approx([0.1, 0.25, 0.05])
    found, _ = ran(net, LinearRamp(6), 3, 6, state)
    assert found[-1] == pytest.approx([0.2, 0.5, 0.1])


def test_the_losses_drive_an_adaptive_schedule_as_numbers_or_tensors():
    net = network()
    schedule = RateSchedule(net, Adaptive(size=0.5, patience=1))
    schedule.step(train_loss=1.0, validation_loss=1.0)
    assert rates(net) == [0.2, 0.5, 0.1]
    schedule.step(train_loss=torch.tensor(0.5), validation_loss=torch.tensor([1.0], requires_grad=True))
    assert schedule.factor == 1.5
    assert rates(net) == pytest.approx([0.3, 0.75, 0.15])
    schedule.step(train_loss=1.0, validation_loss=1.0)
    schedule.step(train_loss=1.0, validation_loss=1.0)
    assert schedule.factor == 1.0
    assert [schedule.factor_at(step) for step in range(5)] == [1.0, 1.0, 1.5, 1.5, 1.0]


@given(step=st.integers(0, 50), p=st.floats(0.01, 1), curve=st.sampled_from([c for c in CURVES if c != Adaptive()]))
@settings(deadline=None)
def test_a_rate_is_the_curves_factor_times_p(step, p, curve):
    layer = nn.Dropout(p)
    schedule = RateSchedule(layer, curve)
    for _ in range(step):
        schedule.step()
    assert layer.p == p * curve(step)


class Own(Curve):
    """A curve of one's own."""

    def at(self, step):
        return 1 / (1 + step)


def test_a_curve_of_ones_own_drives_too():
    layer = nn.Dropout(0.6)
    schedule = RateSchedule(layer, Own())
    schedule.step()
    assert layer.p == 0.3


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: RateSchedule(nn.Linear(2, 2), Constant()), "there is no drop probability to drive"),
        (lambda: RateSchedule([], Constant()), "there is no drop probability to drive"),
        (lambda: RateSchedule(nn.LSTM(2, 2), Constant()), "there is no drop probability to drive"),
        (lambda: RateSchedule(network(), Constant(), only=lambda name, layer: False), "no drop probability to drive"),
        (lambda: RateSchedule(nn.Dropout(0.0), Constant()), "every drop probability is 0"),
        (lambda: RateSchedule(network(), Constant(), p=0.0), "every drop probability is 0"),
        (lambda: RateSchedule(network(), Constant(0.5), p=1.5), "p is 1.5; a drop probability"),
        (lambda: RateSchedule(network(), Constant(2.5)), r"carries 1.p, which is 0.5, too far: p is 1.25"),
        (lambda: RateSchedule(network(), LinearRamp(9, end=3.0)), "carries 1.p, which is 0.5, too far"),
        (lambda: RateSchedule(network(), Adaptive(highest=2.5)), "carries 1.p, which is 0.5, too far"),
        (lambda: RateSchedule(layers.GaussianDropout(0.5), Constant(2.0)), "p is 1.0; .* at least 0 and below 1"),
        (lambda: RateSchedule(nn.LSTM(2, 2, 2, dropout=0.6), Constant(2.0)), "dropout is 1.2; a drop probability"),
    ],
)
def test_what_cannot_be_driven_is_refused(make, reason):
    with pytest.raises(InvalidInput, match=reason):
        make()


def test_what_is_refused_leaves_the_layers_as_they_were():
    net = network()
    with pytest.raises(InvalidInput):
        RateSchedule(net, Decay(0.5, start=1.5, end=2.5))
    assert rates(net) == [0.2, 0.5, 0.1]
    schedule = RateSchedule(net, Decay(0.5, start=1.5, end=1.9))
    state = schedule.state_dict()
    state["own"]["1.p"] = 0.6
    with pytest.raises(InvalidInput, match=r"carries 1\.p, which is 0\.6, too far"):
        schedule.load_state_dict(state)
    assert rates(net) == pytest.approx([0.3, 0.75, 0.15])
    assert schedule.state_dict()["own"]["1.p"] == 0.5


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ({}, "a loss is None; train_loss and validation_loss, both finite"),
        ({"train_loss": 1.0}, "a loss is None"),
        ({"train_loss": 1.0, "validation_loss": float("nan")}, "a loss is nan"),
        ({"train_loss": float("inf"), "validation_loss": 1.0}, "a loss is inf"),
    ],
)
def test_losses_are_two_finite_numbers(losses, reason):
    schedule = RateSchedule(network(), Adaptive())
    before = schedule.state_dict()
    with pytest.raises(InvalidInput, match=reason):
        schedule.step(**losses)
    assert schedule.state_dict() == before


def test_losses_for_a_curve_of_steps_are_refused():
    with pytest.raises(InvalidInput, match=re.escape("LinearRamp(steps=3, start=0.0, end=1.0) takes no losses")):
        RateSchedule(network(), LinearRamp(3)).step(train_loss=1.0, validation_loss=1.0)


def test_a_state_of_other_layers_or_of_another_kind_of_curve_is_refused():
    schedule = RateSchedule(network(), LinearRamp(3))
    with pytest.raises(InvalidInput, match=r"the state is of the drop probabilities p; one of 0\.1\.p, 1\.p, 3\.p is"):
        schedule.load_state_dict(RateSchedule(nn.Dropout(), LinearRamp(3)).state_dict())
    adaptive = RateSchedule(network(), Adaptive())
    with pytest.raises(InvalidInput, match="the state is with the memory of an Adaptive; one without it is wanted"):
        schedule.load_state_dict(adaptive.state_dict())
    with pytest.raises(InvalidInput, match="the state is without the memory of an Adaptive; one with it is wanted"):
        adaptive.load_state_dict(schedule.state_dict())
