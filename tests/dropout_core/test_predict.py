import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from dropout_core.engine.options import PassOptions
from dropout_core.errors import (
    CoupledRows,
    DataDependent,
    HostRandomness,
    InvalidInput,
    NotTheModel,
    NoVariance,
    UnknownMeasure,
)
from dropout_core.estimate.estimate import run_passes
from dropout_core.predict import predict
from tests.support import refused
from tests.support.captured import captured, classifier, made
from tests.support.nets import AlwaysOn, BatchNorm, FoldedTime, NoisyWeights, OwnLaw, StochasticDepth, TwoSites

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
SHARED = classifier()  # captured once, by the first test that asks


def test_one_line_gives_every_measure():
    estimate = predict(SHARED, X)
    assert (estimate.passes, estimate.seed, estimate.method, estimate.output) == (32, 0, "captured", "logits")
    assert estimate.mean.shape == estimate.variance.shape == (5, 3)
    assert estimate.mutual_information.shape == (5,)
    assert (estimate.mutual_information > 0).all()
    with pytest.raises(UnknownMeasure, match="epistemic_variance"):
        _ = estimate.epistemic_variance


def test_samples_are_probabilities_of_passes_rows_and_classes():
    samples = predict(SHARED, X, passes=9, keep_draws=True).samples
    assert samples.shape == (9, 5, 3)
    torch.testing.assert_close(samples.sum(-1), torch.ones(9, 5).double(), rtol=0, atol=1e-12)


def test_answers_are_ordinary_tensors():
    """A float64 network's outputs could be passed on as they are, inference tensors."""
    estimate = predict(captured(TwoSites).net, captured(TwoSites).rows(2), output="mean", keep_draws=True)
    assert not any(tensor.is_inference() for tensor in (estimate.samples, estimate.mean, estimate.variance))


def test_an_estimate_is_that_of_the_engine_s_passes():
    one = captured(TwoSites)
    x = one.rows(3)
    wanted = run_passes(one.engine, one.program.weights, x, PassOptions(40, 9), "mean", keep_draws=True)
    found = predict(one.net, x, passes=40, seed=9, output="mean", keep_draws=True)
    assert torch.equal(found.samples, wanted.samples)
    assert torch.equal(found.variance, wanted.variance)


def test_the_first_passes_of_many_are_the_passes_of_few():
    many, few = (predict(SHARED, X, passes=passes, keep_draws=True).samples for passes in (100, 30))
    torch.testing.assert_close(many[:30], few, rtol=0, atol=1e-5)


def test_seeds_decide_the_answer():
    assert torch.equal(predict(SHARED, X, seed=1).mean, predict(SHARED, X, seed=1).mean)
    assert not torch.equal(predict(SHARED, X, seed=1).mean, predict(SHARED, X, seed=2).mean)


def test_the_mode_of_the_model_decides_nothing():
    assert torch.equal(predict(SHARED.train(), X).mean, predict(SHARED.eval(), X).mean)


@pytest.mark.parametrize("kind", [AlwaysOn, StochasticDepth, OwnLaw, NoisyWeights], ids=lambda kind: kind.__name__)
def test_other_ways_to_drop_are_predicted_too(kind):
    one = captured(kind)
    assert (predict(one.net, one.rows(3), output="mean").variance > 0).all()


@pytest.mark.parametrize("method", ["captured", "loop"])
def test_the_model_and_all_randomness_are_left_as_they_were(method):
    model = captured(BatchNorm).net.train()
    x = captured(BatchNorm).rows(3)

    def state():
        tensors = {name: (id(t), t._version, t.tolist()) for name, t in model.state_dict(keep_vars=True).items()}
        modes = [module.training for module in model.modules()]
        numpy = repr(np.random.get_state())  # noqa: NPY002
        return tensors, modes, torch.get_rng_state().tolist(), random.getstate(), numpy

    before = state()
    estimate = predict(model, x, output="mean", method=method)
    assert estimate.method == method
    assert state() == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_captured_passes_have_the_law_of_the_plain_loop():
    """Means and variances of 2000 passes each, to five standard errors of their difference."""
    model = made(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3),
        )
    )  # fmt: skip
    images = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    passes = 2000
    moments = []
    for method in ("captured", "loop"):
        draws = predict(model, images, passes=passes, output="mean", method=method, keep_draws=True).samples
        central = draws - draws.mean(0)
        variance, fourth = central.square().mean(0), central.pow(4).mean(0)
        moments.append((draws.mean(0), variance, variance / passes, (fourth - variance**2) / passes))
    (mean, variance, of_mean, of_variance), (other_mean, other_variance, of_other_mean, of_other_variance) = moments
    assert ((mean - other_mean).abs() < 5 * (of_mean + of_other_mean).sqrt()).all()
    assert ((variance - other_variance).abs() < 5 * (of_variance + of_other_variance).sqrt()).all()


def test_rows_share_masks_when_captured_and_not_in_the_loop():
    twice = X[:1].expand(2, 4)
    together, apart = (
        predict(SHARED, twice, method=method, keep_draws=True).samples for method in ("captured", "loop")
    )
    torch.testing.assert_close(together[:, 0], together[:, 1], rtol=0, atol=1e-5)
    assert not torch.allclose(apart[:, 0], apart[:, 1])


@pytest.mark.parametrize(
    ("kind", "error"),
    [(refused.DecidesOnADraw, DataDependent), (refused.DecidesByRandom, HostRandomness)],
    ids=["a tensor decides", "random decides"],
)
def test_the_loop_runs_what_cannot_be_captured_and_says_so(kind, error):
    model = made(kind)
    with pytest.raises(error, match="method='loop'"):
        predict(model, X, output="mean")
    looped = predict(model, X, output="mean", method="loop", seed=4, keep_draws=True)
    assert looped.method == "loop"
    assert (looped.variance > 0).all()
    again = predict(model, X, output="mean", method="loop", seed=4, keep_draws=True)
    assert torch.equal(again.samples, looped.samples)
    assert not torch.equal(predict(model, X, output="mean", method="loop", seed=5).mean, looped.mean)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (refused.AddsAConstantInTraining, NotTheModel),
        (refused.MultipliesItsNoiseBy0, NoVariance),
        (refused.ScalesByTheNumberOfRows, CoupledRows),
    ],
    ids=["not the model", "no variance", "coupled rows"],
)
def test_nothing_unverified_is_predicted(kind, error):
    model = made(kind)
    for _ in range(2):
        with pytest.raises(error):
            predict(model, X, output="mean")


@pytest.mark.parametrize("method", ["captured", "loop"])
def test_no_rows_have_an_estimate_of_no_rows(method):
    estimate = predict(SHARED, X[:0], passes=7, method=method, keep_draws=True)
    assert estimate.mean.shape == (0, 3)
    assert estimate.samples.shape == (7, 0, 3)


@pytest.mark.parametrize("spoilt", [1, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_spoilt_rows_spoil_themselves_only_even_at_the_first_call(value, spoilt):
    """Which rows are whose is found on the first rows of the first call."""
    clean = captured(FoldedTime).rows(5)
    x = clean.clone()
    x[:spoilt, 1] = value
    model = captured(FoldedTime).net
    found = predict(copy.deepcopy(model), x, output="mean").mean
    wanted = predict(model, clean, output="mean").mean
    torch.testing.assert_close(found[spoilt:], wanted[spoilt:], rtol=0, atol=1e-12)


def test_a_gradient_or_inference_mode_around_the_first_call_changes_nothing():
    wanted = predict(SHARED, X).mean
    tracked = predict(classifier(), X.clone().requires_grad_()).mean
    assert torch.equal(tracked, wanted)
    assert not tracked.requires_grad
    with torch.inference_mode():
        model = classifier()
        model.scale = torch.ones(1)
        assert torch.equal(predict(model, X.clone()).mean, wanted)


WRONG = {
    "no passes": ({"passes": 0}, "passes is 0; at least 1"),
    "a negative seed": ({"seed": -1}, "seed is -1; it must lie between 0 and 2"),
    "a seed of 64 bits": ({"seed": 2**63}, "must lie between 0 and 2"),
    "an unknown output": ({"output": "scores"}, "choose one of logits, probabilities, multilabel_logits"),
    "an unknown method": ({"method": "fast"}, "choose 'captured' or 'loop'"),
    "an array": ({"x": X.numpy()}, "the input is a ndarray; give a tensor, rows first"),
    "a scalar": ({"x": torch.tensor(1.0)}, "without rows; give one tensor, rows first"),
    "logits as probabilities": ({"output": "probabilities"}, "are no probabilities"),
    "an odd number of columns": ({"output": "mean_and_log_variance"}, "3 columns; mean_and_log_variance needs"),
}


@pytest.mark.parametrize(("arguments", "says"), WRONG.values(), ids=WRONG.keys())
def test_is_refused(arguments, says):
    with pytest.raises(InvalidInput, match=says):
        predict(SHARED, **{"x": X, **arguments})
