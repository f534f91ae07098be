import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropout_core.acquire import pointwise
from dropout_core.errors import InvalidInput

# two passes, two rows, two outputs
MEANS = torch.tensor([[[0.0, 5.0], [1.0, 0.0]], [[2.0, 5.0], [1.0, 6.0]]])
VARIANCES = torch.tensor([[[1.0, 1.0], [2.0, 1.0]], [[3.0, 1.0], [2.0, 4.0]]])


def test_variances_are_those_of_the_law_of_total_variance():
    assert pointwise.epistemic_variance(MEANS).tolist() == [[1, 0], [0, 9]]
    assert pointwise.variance(MEANS).tolist() == [[1, 0], [0, 9]]
    assert pointwise.variance(MEANS, VARIANCES).tolist() == [[3, 1], [2, 11.5]]


def test_gaussian_mutual_information_by_hand():
    expected = [
        [0.5 * math.log(3) - 0.25 * math.log(3), 0],
        [0, 0.5 * math.log(11.5) - 0.25 * math.log(4)],
    ]

    scores = pointwise.gaussian_mutual_information(MEANS, VARIANCES)

    assert scores.flatten().tolist() == pytest.approx([*expected[0], *expected[1]], abs=1e-15)


def test_gaussian_mutual_information_bounds_that_of_the_mixture_from_above():
    means = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).reshape(3, 1)
    variances = torch.tensor([0.5, 1.0, 0.3], dtype=torch.float64).reshape(3, 1)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    densities = torch.exp(-((x - means) ** 2) / (2 * variances)) / (2 * math.pi * variances).sqrt()
    mixture = torch.trapezoid(torch.special.entr(densities.mean(0)), x)
    exact = mixture - (0.5 * (2 * math.pi * math.e * variances).log()).mean()

    bound = pointwise.gaussian_mutual_information(means, variances).item()

    # a Gaussian has the largest entropy of all laws with its moments
    assert exact < bound < exact + 0.2


def test_the_upper_confidence_bound_is_beta_standard_deviations_up():
    assert pointwise.upper_confidence_bound(MEANS, 2).tolist() == [[3, 5], [1, 9]]
    assert torch.equal(pointwise.upper_confidence_bound(MEANS, 0), MEANS.double().mean(0))


def test_thompson_is_one_whole_pass_each_as_often_as_another():
    passes = torch.arange(5).reshape(5, 1).expand(5, 3).float()

    drawn = [pointwise.thompson(passes, seed) for seed in range(2000)]

    assert all((row == row[0]).all() and row.dtype == torch.float64 for row in drawn)
    counts = torch.bincount(torch.stack(drawn)[:, 0].long(), minlength=5)
    # five standard errors of a share of 1/5
    assert (counts - 400).abs().max() <= 5 * math.sqrt(2000 * 0.2 * 0.8)
    assert torch.equal(pointwise.thompson(passes, 7), pointwise.thompson(passes, 7))
    assert pointwise.thompson(passes[:1], 3).tolist() == [0, 0, 0]
    assert pointwise.thompson(passes[:, :0], 3).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pointwise.variance(torch.ones(3)), r"shape \[3\]; \[T, B, …\]"),
        (lambda: pointwise.epistemic_variance(torch.ones(0, 3)), "at least one pass"),
        (lambda: pointwise.thompson(torch.ones(0, 3), 0), "at least one pass"),
        (lambda: pointwise.thompson(torch.ones(2, 3), -1), "seed"),
        (lambda: pointwise.variance(MEANS, VARIANCES[:1]), r"shape \[1, 2, 2\]; .*\[2, 2, 2\], is wanted"),
        (lambda: pointwise.variance(MEANS, -VARIANCES), "below 0"),
        (lambda: pointwise.gaussian_mutual_information(MEANS, 0 * VARIANCES), "is 0"),
        (lambda: pointwise.upper_confidence_bound(MEANS, -0.1), "beta is -0.1"),
        (lambda: pointwise.upper_confidence_bound(MEANS, math.nan), "beta is nan"),
    ],
)
def test_what_is_no_regression_is_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()


def test_regression_takes_any_outputs_and_no_rows():
    means, variances = torch.randn(3, 4, 2, 5), torch.rand(3, 4, 2, 5) + 0.1

    assert pointwise.gaussian_mutual_information(means, variances).shape == (4, 2, 5)
    assert pointwise.gaussian_mutual_information(means[:, :0], variances[:, :0]).shape == (0, 2, 5)
    assert pointwise.epistemic_variance(means[:1]).abs().max() == 0


# one row with a small uncertain region, one uncertain a little everywhere
REGIONS = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0], [0.3] * 10], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 10), (2, 5, 2), (2, 1, 10)])
def test_reductions_and_what_the_mean_hides(shape):
    values = REGIONS.reshape(shape)

    assert pointwise.reduce(values).tolist() == pytest.approx([0.2, 0.3], abs=1e-15)
    assert pointwise.reduce(values, "max").tolist() == pytest.approx([1.0, 0.3], abs=1e-15)
    assert pointwise.reduce(values, "top_fraction", 0.2).tolist() == pytest.approx([1.0, 0.3], abs=1e-15)
    assert pointwise.reduce(values, "top_fraction", 0.4).tolist() == pytest.approx([0.5, 0.3], abs=1e-15)
    assert pointwise.reduce(values, "top_fraction", 0.21).tolist() == pytest.approx([2 / 3, 0.3], abs=1e-15)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_top_fraction_lies_between_max_and_mean(count, seed):
    values = torch.randn(4, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(pointwise.reduce(values, "top_fraction", 1e-9), pointwise.reduce(values, "max"))
    assert torch.allclose(pointwise.reduce(values, "top_fraction", 1.0), pointwise.reduce(values), rtol=0, atol=1e-14)


def test_a_fraction_that_rounding_puts_above_a_whole_number_is_that_number():
    values = torch.arange(100.0).reshape(1, 100)

    assert math.ceil(0.07 * 100) == 8
    assert pointwise.reduce(values, "top_fraction", 0.07).item() == 96  # of 93 … 99


@pytest.mark.parametrize("how", ["mean", "max"])
def test_one_score_a_row_stays_and_no_rows_are_none(how):
    scores = torch.tensor([3.0, 1.0])

    assert torch.equal(pointwise.reduce(scores, how), scores.double())
    assert pointwise.reduce(torch.ones(0, 4), how).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3), "median"), "no reduction 'median'; there are mean, max, top_fraction"),
        ((torch.ones(2, 3), "top_fraction"), "fraction None"),
        ((torch.ones(2, 3), "mean", 0.5), "top_fraction, and no other"),
        ((torch.ones(2, 3), "top_fraction", 0.0), "the fraction is 0.0"),
        ((torch.ones(2, 3), "top_fraction", 1.5), "the fraction is 1.5"),
        ((torch.ones(2, 0), "max"), r"shape \[2, 0\]"),
        ((torch.tensor(1.0),), r"shape \[\]"),
    ],
)
def test_reductions_that_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        pointwise.reduce(*arguments)
