import math

import pytest
import torch
from torch import nn

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.theory import expected_active_depth, last_rate_for_depth, recurrent_attenuation
from tests.support.enumeration import assert_mean, expectation, masks_of, randn

RATES = [0.0, 0.1, 0.25, 0.4, 0.5, 1.0]


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def test_the_expected_active_depth_is_that_of_all_fates_of_the_blocks():
    def chance(mask):
        return math.prod(1 - p if kept else p for kept, p in zip(mask.tolist(), RATES, strict=True))

    depth = sum(float(mask.sum()) * chance(mask) for mask, _ in masks_of(len(RATES), 0.5))
    assert expected_active_depth(RATES) == pytest.approx(depth, rel=1e-14)
    assert expected_active_depth([]) == 0


def test_so_many_blocks_run_under_stochastic_depth():
    torch.manual_seed(0)
    blocks = [layers.StochasticDepth(Counted(), p, per="batch") for p in RATES]
    for _ in range(2000):
        for block in blocks:
            block(torch.zeros(1))
    depth = sum(block.branch.calls for block in blocks) / 2000
    variance = sum(p * (1 - p) for p in RATES)
    assert abs(depth - expected_active_depth(RATES)) <= 5 * math.sqrt(variance / 2000)


@pytest.mark.parametrize("blocks", [2, 5, 54])
@pytest.mark.parametrize(("form", "share"), [("linspace", 1.0), ("linspace", 0.7), ("huang", 0.9)])
def test_the_last_rate_gives_the_depth_that_was_asked_for(blocks, form, share):
    last = last_rate_for_depth(blocks, share * blocks, form)
    assert 0 <= last <= 1
    assert expected_active_depth(layers.linear_depth_rates(blocks, last, form)) == pytest.approx(share * blocks)
    assert last == pytest.approx(2 * (1 - share) * blocks / (blocks if form == "linspace" else blocks + 1))


def test_the_paper_s_schedule_has_three_quarters_of_the_depth():
    assert expected_active_depth(layers.linear_depth_rates(54, 0.5, "huang")) == pytest.approx((3 * 54 - 1) / 4)
    assert last_rate_for_depth(54, (3 * 54 - 1) / 4, "huang") == pytest.approx(0.5)


def test_depths_at_the_limits_are_given_and_beyond_them_refused():
    assert last_rate_for_depth(4, 2.0) == 1
    assert last_rate_for_depth(1, 1.0) == 0
    for blocks, depth, form, allowed in ((4, 1.9, "linspace", "2 … 4"), (4, 4.1, "huang", "1.5 … 4"), (1, 0.9,
                                         "linspace", "1 … 1"), (4, math.nan, "linspace", "2 … 4")):  # fmt: skip
        with pytest.raises(InvalidInput, match=f"one of {allowed} is wanted"):
            last_rate_for_depth(blocks, depth, form)
    with pytest.raises(InvalidInput, match=r"a rate is 1\.5"):
        expected_active_depth([0.1, 1.5])


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_linear_recurrence_and_its_gradient_are_attenuated_by_each_unscaled_mask(steps):
    p, weight, start = 0.3, randn(2, 2), randn(2, seed=1)

    def end(masks, state):
        for mask in masks.reshape(steps, 2):
            state = weight @ (mask * state)
        return state

    whole = torch.linalg.matrix_power(weight, steps)
    attenuation = recurrent_attenuation(p, steps)
    assert torch.allclose(expectation(2 * steps, p, lambda masks: end(masks, start)), attenuation * whole @ start)

    def gradient(masks):
        return torch.autograd.functional.jacobian(lambda state: end(masks, state), start)

    assert torch.allclose(expectation(2 * steps, p, gradient), attenuation * whole)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_paths_survive_with_the_probability_of_all_their_masks(p):
    wanted = expectation(5, p, lambda masks: float(masks.all()))
    assert recurrent_attenuation(p, 5) == pytest.approx(wanted, rel=1e-14)


def test_the_second_moment_of_an_inverted_path_grows_as_the_signal_would_fade():
    second = expectation(5, 0.2, lambda masks: float((masks / 0.8).prod() ** 2))
    assert second == pytest.approx(1 / recurrent_attenuation(0.2, 5))


def test_masks_of_their_own_close_paths_and_one_mask_for_a_sequence_does_not():
    torch.manual_seed(0)
    x = torch.ones(4000, 6, 1)
    assert_mean(layers.Dropout(0.2)(x).all(1), recurrent_attenuation(0.2, 6))
    assert_mean(layers.LockedDropout(0.2)(x).all(1), 0.8)


@pytest.mark.parametrize("steps", [-1, 1.0, True])
def test_steps_that_are_no_number_of_steps_are_refused(steps):
    with pytest.raises(InvalidInput, match="a whole number of at least 0 is wanted"):
        recurrent_attenuation(0.2, steps)
