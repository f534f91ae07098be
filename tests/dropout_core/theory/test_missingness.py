import math
import statistics

import pytest
import torch

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.theory import missing_completely_at_random, missingness_dependence
from tests.support.enumeration import masks_of, randn

ROWS = 4000
VALUES = randn(ROWS, 3)


def uniform():
    return torch.rand(ROWS, generator=torch.Generator().manual_seed(5))


def by_function():
    return missing_completely_at_random(VALUES.shape, 0.3)


def by_input_dropout():
    return layers.Dropout(0.3)(VALUES) == 0


def at_random():
    """MAR: feature 0 is missing by the value of feature 1, which is seen."""
    missing = torch.zeros(ROWS, 3, dtype=torch.bool)
    missing[:, 0] = uniform() < torch.sigmoid(VALUES[:, 1])
    return missing


def not_at_random():
    """MNAR: feature 2 is missing by its own value."""
    missing = torch.zeros(ROWS, 3, dtype=torch.bool)
    missing[:, 2] = uniform() < torch.sigmoid(VALUES[:, 2])
    return missing


each_complete = pytest.mark.parametrize("law", [by_function, by_input_dropout])


@each_complete
def test_every_pattern_has_the_probability_of_a_mask(law):
    torch.manual_seed(7)
    missing = law()
    for kept, chance in masks_of(3, 0.3):
        frequency = (missing == (kept == 0)).all(1).double().mean()
        assert abs(frequency - chance) <= 5 * math.sqrt(chance * (1 - chance) / ROWS)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_or_all_is_missing_at_the_limits(p):
    assert (missing_completely_at_random((3, 4), p) == (p == 1)).all()


def test_input_dropout_takes_away_the_same_places_whatever_stands_there():
    """Its draws never see a value: one state of the generator is one mask."""
    masks = []
    for values in (VALUES, -3 * VALUES.abs() - 1, VALUES.sort(0).values):
        torch.manual_seed(7)
        masks.append(layers.Dropout(0.3)(values) == 0)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@each_complete
def test_what_is_missing_completely_at_random_depends_on_no_value(law):
    torch.manual_seed(7)
    assert (missingness_dependence(VALUES, law()).abs() < 5).all()


@pytest.mark.parametrize(("law", "place"), [(at_random, (0, 1)), (not_at_random, (2, 2))])
def test_what_is_missing_by_a_value_shows_by_which(law, place):
    z = missingness_dependence(VALUES, law()).nan_to_num()
    assert z[place] > 5
    z[place] = 0
    assert (z.abs() < 5).all()


def test_the_statistic_is_the_difference_of_two_means_by_its_standard_error():
    values, missing = randn(12, 2), randn(12, 2, seed=1) > 0
    values[3, 1] = math.nan
    z = missingness_dependence(values + 1e6, missing)
    for i in range(2):
        for j in range(2):
            known = [row for row in range(12) if not values[row, j].isnan()]
            gone = [float(values[row, j]) for row in known if missing[row, i]]
            here = [float(values[row, j]) for row in known if not missing[row, i]]
            error = math.sqrt(statistics.variance(gone) / len(gone) + statistics.variance(here) / len(here))
            wanted = (statistics.fmean(gone) - statistics.fmean(here)) / error
            assert float(z[i, j]) == pytest.approx(wanted, rel=1e-6)


def test_of_real_data_nobody_can_tell_whether_a_value_hid_itself():
    missing = not_at_random() | at_random()
    z = missingness_dependence(VALUES.masked_fill(missing, math.nan), missing)
    assert z.diagonal().isnan().all()
    assert z[0, 1] > 5


def test_groups_of_fewer_than_two_values_say_nothing():
    missing = torch.zeros(4, 2, dtype=torch.bool)
    missing[0, 0] = True
    assert missingness_dependence(randn(4, 2), missing).isnan().all()


def test_values_and_masks_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match=r"the values have shape \[3\]; \[N, C\] is wanted"):
        missingness_dependence(randn(3), torch.zeros(3, dtype=torch.bool))
    for missing in (torch.zeros(4, 3), torch.zeros(3, 3, dtype=torch.bool)):
        with pytest.raises(InvalidInput, match=r"torch\.bool \[4, 3\] is wanted"):
            missingness_dependence(randn(4, 3), missing)
    with pytest.raises(InvalidInput, match=r"p is 1\.5"):
        missing_completely_at_random((2, 2), 1.5)
