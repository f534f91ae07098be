import math

import pytest
import torch
from torch import nn

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.predict import predict
from dropout_core.theory import (
    dropout_least_squares,
    equivalent_l2_penalty,
    grouping_bound,
    mask_variance,
    monte_carlo_variance,
)
from tests.support.enumeration import assert_mean, expectation, factor, randn

LAYERS = {"inverted": layers.Dropout, "classic": layers.ClassicDropout}
each_form = pytest.mark.parametrize("form", LAYERS)
each_rate = pytest.mark.parametrize("p", [0.0, 0.25, 0.7])
X, Y, WEIGHT = randn(5, 6), randn(5, 2, seed=1), randn(2, 6, seed=2)


def squared_error(x, y, weight):
    return (y - x @ weight.T).square().sum(1).mean()


def objective(x, y, weight, p, form):
    """The expected squared error, over all masks; each row's expectation is the same for masks of its own."""
    kept, _ = factor(p, form)
    return expectation(x.shape[1], p, lambda mask: squared_error(x * mask * kept, y, weight))


@each_form
@each_rate
def test_the_variance_of_a_factor_is_that_of_its_two_values(p, form):
    kept, mean = factor(p, form)
    assert mask_variance(p, form) == pytest.approx(p * mean**2 + (1 - p) * (kept - mean) ** 2)


@each_form
@each_rate
def test_the_closed_variance_is_that_over_all_masks(p, form):
    kept, mean = factor(p, form)
    wanted = expectation(6, p, lambda mask: ((X * (mask * kept - mean)) @ WEIGHT.T).square())
    assert torch.allclose(monte_carlo_variance(X, WEIGHT, p, form), wanted, rtol=1e-12)


@each_form
def test_monte_carlo_passes_have_the_closed_variance(form):
    model = nn.Sequential(LAYERS[form](0.25), nn.Linear(6, 2)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(WEIGHT)
    draws = predict(model, X, passes=4000, output="mean", keep_draws=True).samples
    assert_mean((draws - model(X).detach()).square(), monte_carlo_variance(X, WEIGHT, 0.25, form))


@each_form
@each_rate
def test_the_penalty_is_what_dropout_adds_to_the_expected_squared_error(p, form):
    _, mean = factor(p, form)
    added = objective(X, Y, WEIGHT, p, form) - squared_error(X, Y, mean * WEIGHT)
    assert torch.allclose(equivalent_l2_penalty(X, WEIGHT, p, form), added, rtol=1e-12, atol=1e-14)


@each_form
def test_the_monte_carlo_objective_is_the_squared_error_and_the_penalty(form):
    torch.manual_seed(0)
    layer, (_, mean) = LAYERS[form](0.25), factor(0.25, form)
    losses = torch.stack([squared_error(layer(X), Y, WEIGHT) for _ in range(4000)])
    assert_mean(losses, squared_error(X, Y, mean * WEIGHT) + equivalent_l2_penalty(X, WEIGHT, 0.25, form))


def test_the_penalty_does_not_depend_on_the_unit_of_a_feature():
    units = torch.tensor([1.0, 10.0, 0.1, 3.0, 1000.0, 1.0], dtype=torch.float64)
    assert torch.allclose(equivalent_l2_penalty(X * units, WEIGHT / units, 0.5), equivalent_l2_penalty(X, WEIGHT, 0.5))


@each_form
@each_rate
def test_the_closed_solution_is_a_minimum_of_the_expected_squared_error(p, form):
    """A convex quadratic: where its gradient is 0."""
    x, y = randn(20, 5), randn(20, 2, seed=1)
    weight = dropout_least_squares(x, y, p, form).requires_grad_()
    assert weight.shape == (2, 5)
    (gradient,) = torch.autograd.grad(objective(x, y, weight, p, form), weight)
    assert gradient.abs().max() < 1e-12


def test_features_that_are_always_zero_have_no_weight_and_without_dropout_the_least_norm_is_taken():
    x = X.clone()
    x[:, 2] = 0
    assert dropout_least_squares(x, Y, 0.3)[:, 2].abs().max() < 1e-15
    wanted = torch.linalg.lstsq(X, Y, driver="gelsd").solution.T
    assert torch.allclose(dropout_least_squares(X, Y, 0.0), wanted)


def test_features_that_say_the_same_share_a_weight():
    x = torch.stack([X[:, 0], X[:, 0], X[:, 1]], 1)
    y = X[:, :1] + X[:, 1:2]
    alone = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    assert squared_error(x, y, alone) == 0
    weight = dropout_least_squares(x, y, 0.01)
    assert torch.allclose(weight[:, 0], weight[:, 1], rtol=1e-9)
    assert abs(weight[0, 0] - 0.5) < 0.02
    assert grouping_bound(x, y, 0.01)[0, 1] == 0
    many = randn(40, 30)
    assert grouping_bound(torch.cat([many, many], 1), many[:, :1], 0.01).diagonal(30).abs().max() == 0


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_correlated_features_have_weights_within_the_bound(p):
    common = randn(40, 1)
    x, y = (common + 0.3 * randn(40, 5, seed=1)) * torch.arange(1, 6), common + randn(40, 2, seed=2)
    shares = dropout_least_squares(x, y, p) * x.norm(dim=0)
    bound = grouping_bound(x, y, p)
    assert (torch.cdist(shares.T, shares.T) <= bound + 1e-12).all()
    for i in range(5):
        for j in range(5):
            cosine = 1.0 if i == j else float(x[:, i] @ x[:, j] / (x[:, i].norm() * x[:, j].norm()))
            wanted = (1 - p) / p * math.sqrt(max(2 * (1 - cosine), 0)) * float(y.norm())
            assert float(bound[i, j]) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_the_bound_is_reached_where_dropout_leaves_only_the_residual():
    x = randn(10, 2)
    first, second = (x / x.norm(dim=0)).T
    y, p = (first - second).unsqueeze(1), 0.9999
    shares = (dropout_least_squares(x, y, p) * x.norm(dim=0))[0]
    assert float(shares[0] - shares[1]) == pytest.approx(float(grouping_bound(x, y, p)[0, 1]), rel=1e-3)


def test_full_rates_are_defined_in_the_classic_form_and_refused_in_the_inverted_one():
    assert mask_variance(1.0, "classic") == 0
    for refused in (
        lambda: mask_variance(1.0),
        lambda: dropout_least_squares(X, Y, 1.0, "classic"),
        lambda: monte_carlo_variance(X, WEIGHT, 1.0),
        lambda: equivalent_l2_penalty(X, WEIGHT, 1.0),
        lambda: grouping_bound(X, Y, 1.0),
    ):
        with pytest.raises(InvalidInput, match="at least 0 and below 1"):
            refused()
    with pytest.raises(InvalidInput, match="p is 0; without dropout"):
        grouping_bound(X, Y, 0.0)


def test_unknown_forms_are_refused_with_the_known_ones():
    for refused in (lambda: mask_variance(0.5, "scaled"), lambda: dropout_least_squares(X, Y, 0.5, "scaled")):
        with pytest.raises(InvalidInput, match="form is 'scaled'; it is one of inverted, classic"):
            refused()


def test_shapes_that_do_not_fit_are_refused_with_those_wanted():
    for function in (monte_carlo_variance, equivalent_l2_penalty):
        with pytest.raises(InvalidInput, match=r"shape \[5, 5\]; \[B, 6\] is wanted"):
            function(X[:, 1:], WEIGHT, 0.5)
        with pytest.raises(InvalidInput, match=r"the weight has shape \[6\]; \[O, C\] is wanted"):
            function(X, WEIGHT[0], 0.5)
    for function in (dropout_least_squares, grouping_bound):
        with pytest.raises(InvalidInput, match=r"the input has shape \[6\]; \[B, C\] is wanted"):
            function(X[0], Y, 0.5)
        with pytest.raises(InvalidInput, match=r"the targets have shape \[5\]; \[5, O\] is wanted"):
            function(X, Y[:, 0], 0.5)
