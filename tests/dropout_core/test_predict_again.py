"""What a second call of predict reuses, and what makes it capture anew."""

import gc
import sys
import threading
import weakref

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.layers import VariationalGRU
from dropout_core.predict import predict
from tests.support.captured import captured, classifier, made
from tests.support.inputs import Steps, network
from tests.support.nets import BatchNorm, LastLayer

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def captures(monkeypatch):
    """The shapes of the examples that predict captured, one entry a capture."""
    module, seen = sys.modules["dropout_core.predict"], []

    def counted(model, example, **options):
        seen.append(tuple(next(iter(example.values())).shape))
        return capture(model, example, **options)

    monkeypatch.setattr(module, "capture", counted)
    return seen


class LastStep(nn.Module):
    def forward(self, outputs):
        return outputs[0][:, -1]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.ones(1)

    def forward(self, x):
        return x * self.factor


CHANGES = {
    "weights in place": lambda model: model[3].weight.data.mul_(2),
    "a replaced parameter": lambda model: setattr(model[3], "weight", nn.Parameter(model[3].weight * 2)),
    "a state dict that is assigned": lambda model: model.load_state_dict(
        {name: weight * 2 for name, weight in model.state_dict().items()}, assign=True
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_answer_follows_changed(change, captures):
    """Without a second capture, and as a fresh model with these weights answers."""
    model = classifier()
    before = predict(model, X)
    with torch.no_grad():
        change(model)
    after = predict(model, X)
    assert len(captures) == 1
    fresh = classifier()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(after.mean, predict(fresh, X).mean)
    assert not torch.equal(after.mean, before.mean)


def test_the_answer_follows_training():
    model = classifier()
    before = predict(model, X).mean
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    nn.functional.cross_entropy(model(X), torch.zeros(5, dtype=torch.long)).backward()
    optimizer.step()
    assert (predict(model, X).mean[:, 0] > before[:, 0]).all()
    assert model[0].weight.grad is not None


def test_the_answer_follows_running_statistics(captures):
    model = made(BatchNorm).double()
    x = captured(BatchNorm).rows(3)
    before = predict(model, x, output="mean").mean
    model.train()(x + 5)
    assert not torch.equal(predict(model, x, output="mean").mean, before)
    assert len(captures) == 1


def test_one_capture_serves_any_number_of_rows_passes_and_seeds(captures):
    model = classifier()
    for rows, passes, seed in ((5, 32, 0), (1, 8, 0), (0, 8, 0), (5, 8, 7)):
        predict(model, X[:rows], passes=passes, seed=seed)
    assert captures == [(4, 4)]


def test_shapes_that_take_turns_are_captured_once_each(captures):
    model = made(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2), nn.Flatten()))
    for x in (X, X.unsqueeze(1), X, X.unsqueeze(1)):
        predict(model, x, output="mean")
    assert captures == [(4, 4), (4, 1, 4)]


def test_only_the_captures_of_the_last_shapes_are_kept(captures, monkeypatch):
    monkeypatch.setattr(sys.modules["dropout_core.predict"], "_MAX_CAPTURES", 2)
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten())
    for length in (1, 2, 3, 2, 1):
        predict(model, torch.ones(2, length) * torch.arange(1.0, 3.0)[:, None], passes=2, output="mean")
    assert [shape[1] for shape in captures] == [1, 2, 3, 1]


def test_one_capture_serves_every_length_that_is_free(captures):
    """As a capture of that length itself does."""
    free, fixed = network(Steps), network(Steps)
    for length in (5, 1):
        inputs = Steps.inputs(3, length)
        found = predict(free, inputs, passes=4, output="mean", dynamic={"x": {1: "length"}}).mean
        torch.testing.assert_close(found, predict(fixed, inputs, passes=4, output="mean").mean)
    assert [shape[1] for shape in captures] == [5, 5, 1]


def test_a_recurrent_layer_keeps_a_list_of_its_weights_and_is_still_captured_once(captures):
    net = nn.Sequential(VariationalGRU(4, 3, p_output=0.5), LastStep(), nn.Linear(3, 2))
    x = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0))
    first = predict(net, x, passes=4, output="mean").mean
    with torch.no_grad():
        net[0].weight_hh_l0.mul_(2)
    assert not torch.equal(predict(net, x, passes=4, output="mean").mean, first)
    assert len(captures) == 1


def test_a_changed_rate_is_captured_anew(captures):
    model = made(LastLayer)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    model.drop.p = 0.5
    small = predict(model, x, output="mean", passes=200).variance
    model.drop.p = 0.9
    assert (predict(model, x, output="mean", passes=200).variance > 2 * small).all()
    assert len(captures) == 2


STRUCTURES = {
    "another input shape": lambda model, x: (model, x.unsqueeze(1), "mean"),
    "another dtype": lambda model, x: (model.double(), x.double(), "mean"),
    "another output kind": lambda model, x: (model, x, "logits"),
    "another module": lambda model, x: (model.__setitem__(1, nn.Tanh()) or model, x, "mean"),
}


@pytest.mark.parametrize("change", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_is_captured_anew(change, captures):
    model = made(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 2)))
    predict(model, X, output="mean")
    changed, x, output = change(model, X)
    found = predict(changed, x, output=output).mean
    assert len(captures) == 2
    assert torch.equal(found, predict(changed, x, output=output).mean)
    assert len(captures) == 2


def test_a_plain_tensor_is_known_by_more_than_its_address():
    """A third tensor may lie where the first one lay, with the same number of changes."""
    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5), Scaled())
    first = predict(model, X, output="mean").mean
    for factor in (2.0, 3.0):
        model[2].factor = torch.full((1,), factor)
    torch.testing.assert_close(predict(model, X, output="mean").mean, 3 * first, rtol=1e-5, atol=1e-6)
    model[2].factor.mul_(2)
    torch.testing.assert_close(predict(model, X, output="mean").mean, 6 * first, rtol=1e-5, atol=1e-6)


def test_a_forgotten_model_is_freed():
    model = classifier()
    predict(model, X)
    watch = weakref.ref(model)
    del model
    gc.collect()
    assert watch() is None


def test_many_threads_get_the_same_answers():
    """On a cold model: all of them may want to capture it."""
    model, answers = classifier(), {}

    def ask(number):
        answers[number] = predict(model, X, seed=number % 2).mean

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        assert torch.equal(answers[number], predict(model, X, seed=number % 2).mean)
