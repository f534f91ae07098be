import math

import pytest
import torch
import torch.nn.functional as F

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.theory import (
    equivalent_l2_penalty,
    gradient_bias,
    gradient_variance_inflation,
    monte_carlo_variance,
    squared_error_gradient_moments,
)
from tests.support.enumeration import assert_mean, expectation, randn

each_rate = pytest.mark.parametrize("p", [0.0, 0.25, 0.7])
X, Y, WEIGHT = randn(4, 5), randn(4, 2, seed=1), randn(2, 5, seed=2)
CLASSES = torch.tensor([0, 1, 1, 0])


def gradient(loss, weight):
    weight = weight.detach().requires_grad_()
    return torch.autograd.grad(loss(weight), weight)[0]


def row_gradients(loss, x, p):
    """The gradient of each row's loss(row, dropped x @ weight), under one mask: mask → [B, O, C]."""
    return lambda mask: torch.stack(
        [gradient(lambda w, row=row: loss(row, w @ (x[row] * mask / (1 - p))), WEIGHT) for row in range(len(x))]
    )


@each_rate
def test_the_inflation_is_that_of_a_linear_loss_over_all_rows_and_masks(p):
    """Row r's loss is Y[r] · z: the law of a gradient is that of a row and a mask."""
    under = row_gradients(lambda row, z: Y[row] @ z, X, p)
    plain = under(torch.full((5,), 1 - p, dtype=torch.float64))
    mean = expectation(5, p, under).mean(0)
    second = expectation(5, p, lambda mask: under(mask).square()).mean(0)
    wanted = (second - mean.square()).sum() / (plain - plain.mean(0)).square().mean(0).sum()
    assert torch.allclose(gradient_variance_inflation(plain, p), wanted, rtol=1e-12)


def test_gradients_that_make_the_dropped_units_are_as_noisy_as_those_that_read_them():
    """Of the weights V in Y · (n ⊙ V x): one mask for each row of V."""
    torch.manual_seed(0)
    first, second = randn(5, 5, seed=3), randn(5, seed=4)
    plain = torch.stack([gradient(lambda v, row=row: second @ (v @ row), first) for row in X])
    dropped = layers.Dropout(0.25)(second.expand(4000, 4, 1, 5)).transpose(2, 3) * X[:, None]
    spread = (dropped - plain.mean(0)).square().mean(1).sum((1, 2)) / (plain - plain.mean(0)).square().mean(0).sum()
    assert_mean(spread, gradient_variance_inflation(plain, 0.25))


def test_gradients_of_mean_zero_are_inflated_by_the_keep_rate_alone():
    plain = randn(6, 3)
    assert gradient_variance_inflation(plain - plain.mean(0), 0.2) == pytest.approx(1 / 0.8)
    assert gradient_variance_inflation(plain, 0.2) > 1 / 0.8


def test_rows_that_agree_have_no_variance_to_multiply():
    assert gradient_variance_inflation(torch.ones(3, 2), 0.2) == math.inf
    assert gradient_variance_inflation(torch.ones(3, 2), 0.0) == 1
    for too_few in (torch.ones(()), torch.ones(1, 2)):
        with pytest.raises(InvalidInput, match=r"\[N, \*\], N at least 2, is wanted"):
            gradient_variance_inflation(too_few, 0.2)


@each_rate
def test_the_gradient_of_a_squared_error_has_the_closed_moments(p):
    under = row_gradients(lambda row, z: (Y[row] - z).square().sum(), X, p)
    mean, variance = squared_error_gradient_moments(X, Y, WEIGHT, p)
    assert torch.allclose(mean, expectation(5, p, under), rtol=1e-12)
    wanted = expectation(5, p, lambda mask: (under(mask) - mean).square())
    assert torch.allclose(variance, wanted, rtol=1e-11, atol=1e-12)


def test_the_mean_gradient_is_that_of_the_squared_error_and_the_penalty():
    mean, variance = squared_error_gradient_moments(X, X @ WEIGHT.T, WEIGHT, 0.25)
    wanted = gradient(lambda w: equivalent_l2_penalty(X, w, 0.25), WEIGHT)
    assert torch.allclose(mean.mean(0), wanted, rtol=1e-12)
    assert (variance > 0).all(), "noise stays where the residual is 0"


def test_the_expected_gradient_of_a_linear_loss_is_not_biased():
    assert gradient_bias(lambda z: (z * Y).sum(), X, WEIGHT, 0.4).abs().max() < 1e-13


@each_rate
def test_the_bias_of_a_squared_error_is_the_gradient_of_the_penalty(p):
    x, y, weight = randn(3, 11), randn(3, 1, seed=1), randn(1, 11, seed=2)
    wanted = gradient(lambda w: equivalent_l2_penalty(x, w, p), weight)
    assert torch.allclose(gradient_bias(lambda z: F.mse_loss(z, y), x, weight, p), wanted, rtol=1e-9, atol=1e-13)


@each_rate
def test_the_bias_of_a_nonlinear_loss_is_that_over_all_masks(p):
    def loss(z):
        return F.cross_entropy(z, CLASSES)

    def under(mask):
        return gradient(lambda w: loss((X * mask / (1 - p)) @ w.T), WEIGHT)

    wanted = expectation(5, p, under) - gradient(lambda w: loss(X @ w.T), WEIGHT)
    assert torch.allclose(gradient_bias(loss, X, WEIGHT, p), wanted, rtol=1e-11, atol=1e-13)


def test_gradients_under_dropout_have_the_bias():
    torch.manual_seed(0)
    layer, loss = layers.Dropout(0.4), lambda z: F.cross_entropy(z, CLASSES)
    plain = gradient(lambda w: loss(X @ w.T), WEIGHT)
    drawn = torch.stack([gradient(lambda w: loss(layer(X) @ w.T), WEIGHT) - plain for _ in range(2000)])
    bias = gradient_bias(loss, X, WEIGHT, 0.4)
    assert_mean(drawn, bias)
    assert (bias.abs() > 5 * drawn.std(0) / math.sqrt(2000)).any(), "the draws tell the bias from none"


def test_the_bias_of_a_smooth_loss_is_near_the_second_order_at_small_rates():
    def curvature(w):
        z = X @ w.T
        return 0.5 * (z.sigmoid() * (1 - z.sigmoid()) * monte_carlo_variance(X, w, 0.001)).mean()

    bias = gradient_bias(lambda z: F.softplus(z).mean(), X, 0.1 * WEIGHT, 0.001)
    assert torch.allclose(bias, gradient(curvature, 0.1 * WEIGHT), rtol=0.05, atol=1e-7)


def test_shapes_and_rates_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match=r"the targets have shape \[4, 1\]; \[4, 2\] is wanted"):
        squared_error_gradient_moments(X, Y[:, :1], WEIGHT, 0.5)
    with pytest.raises(InvalidInput, match=r"shape \[4, 4\]; \[B, 5\] is wanted"):
        gradient_bias(torch.sum, X[:, 1:], WEIGHT, 0.5)
    with pytest.raises(InvalidInput, match="at most 20 units are wanted"):
        gradient_bias(torch.sum, randn(2, 21), randn(1, 21), 0.5)
    for refused in (
        lambda: gradient_variance_inflation(Y, 1.0),
        lambda: squared_error_gradient_moments(X, Y, WEIGHT, 1.0),
        lambda: gradient_bias(torch.sum, X, WEIGHT, 1.0),
    ):
        with pytest.raises(InvalidInput, match="at least 0 and below 1"):
            refused()
