import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropout_core.errors import InvalidInput
from dropout_core.measures.quantiles import quantiles
from tests.support import references

LEVELS = [0.001, 0.05, 0.25, 0.5, 0.8, 0.975, 0.999]
LEVEL = st.floats(0.001, 0.999)


def column(numbers):
    """T numbers as [T, 1, 1]."""
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1, 1)


def of_mixture(means, variances, *levels):
    return quantiles({"value": column(means), "aleatoric": column(variances)}, levels).flatten().tolist()


@pytest.mark.parametrize("num_passes", [1, 2, 5, 100])
def test_quantiles_of_passes_are_those_of_numpy(num_passes):
    draws = torch.randn(num_passes, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = quantiles({"value": draws}, LEVELS)
    np.testing.assert_allclose(found, np.quantile(draws.numpy(), LEVELS, axis=0), rtol=1e-13, atol=1e-13)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 5)), min_size=1, max_size=5),
    LEVEL,
)
def test_the_quantile_of_a_mixture_inverts_its_distribution_function(components, level):
    means, stds = zip(*components, strict=True)
    (found,) = of_mixture(means, [s * s for s in stds], level)
    steepest = 1 / (min(stds) * math.sqrt(2 * math.pi))
    rounding = 4 * math.ulp(max(1.0, abs(found)))
    assert abs(references.mixture_cdf(found, means, stds) - level) < rounding * (1 + steepest)


@pytest.mark.parametrize("level", LEVELS)
def test_equal_components_have_the_normal_quantile(level):
    (found,) = of_mixture([3.0] * 4, [4.0] * 4, level)
    assert found == pytest.approx(NormalDist(3, 2).inv_cdf(level), abs=1e-11)


@pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_components_without_variance_are_steps(level):
    means = [4.0, -2.0, 1.0, 7.0, 1.0]
    (found,) = of_mixture(means, [0.0] * 5, level)
    assert found == pytest.approx(np.quantile(means, level, method="inverted_cdf"), rel=1e-15)


def test_a_step_beside_a_normal_component():
    """Half the mass is a step at 0: every level between F(0−) = 1/4 and F(0) = 3/4 is there."""
    assert of_mixture([0.0, 0.0], [0.0, 1.0], 0.3, 0.7) == pytest.approx([0, 0], abs=1e-20)
    (tail,) = of_mixture([0.0, 0.0], [0.0, 1.0], 0.9)
    assert tail == pytest.approx(NormalDist().inv_cdf(0.8), abs=1e-12)


@given(st.lists(LEVEL, min_size=2, max_size=5))
def test_quantiles_rise_with_their_level(levels):
    found = of_mixture([0.0, 3.0, -1.0], [1.0, 0.0, 0.25], *sorted(levels))
    assert found == sorted(found)


def test_rows_and_columns_have_quantiles_of_their_own():
    draws = torch.arange(24.0).reshape(3, 4, 2)
    found = quantiles({"value": draws, "aleatoric": torch.zeros(3, 4, 2)}, [0.5])
    assert found.shape == (1, 4, 2)
    torch.testing.assert_close(found[0], draws[1].double(), rtol=1e-15, atol=0)


def test_no_rows_have_no_quantiles():
    empty = torch.zeros(3, 0, 2)
    assert quantiles({"value": empty}, LEVELS).shape == (7, 0, 2)
    assert quantiles({"value": empty, "aleatoric": empty}, LEVELS).shape == (7, 0, 2)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 1.5, math.nan])
def test_a_level_outside_0_to_1_is_refused(level):
    with pytest.raises(InvalidInput, match=rf"levels \[{level}\] must lie strictly between 0 and 1"):
        quantiles({"value": torch.zeros(3, 1, 1)}, [0.5, level])
