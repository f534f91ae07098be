import numpy as np
import pytest
import torch

from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.noise.limits import MAX_SEED
from mcdrop.inference.query import (
    Query,
    RequestLimits,
    draw_seed,
    example_row,
    model_measures,
)
from mcdrop.inference.result import run_query
from tests.support import service_nets as nets

LIMITS = RequestLimits(max_passes=50, max_samples=600, max_length=8)
CLASSIFICATION = (
    "mean",
    "variance",
    "std",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "least_confidence",
    "margin",
    "vote_variation_ratio",
)
REGRESSION = ("mean", "variance", "std", "epistemic_variance", "aleatoric_variance", "gaussian_mutual_information")


def test_a_model_has_the_measures_of_its_output(digits, heights):
    assert model_measures(digits) == CLASSIFICATION
    assert model_measures(heights) == REGRESSION


def test_what_is_not_said_is_the_bundles_own(digits):
    x = nets.images(2)

    query = Query.of(digits, x, LIMITS)

    assert list(query.inputs.values()) == [x]
    assert query.num_rows == len(x)
    assert (query.options.passes, query.options.seed, query.measures) == (20, 7, CLASSIFICATION)
    assert (query.quantiles, query.samples) == ((), False)


def test_what_is_said_is_used(digits):
    query = Query.of(
        digits,
        nets.images(1),
        LIMITS,
        overrides={"passes": 3, "seed": 0},
        outputs=["std", "mean"],
        quantiles=[0.5],
        samples=True,
    )

    assert (query.options.passes, query.options.seed, query.measures) == (3, 0, ("std", "mean"))
    assert (query.quantiles, query.samples) == ((0.5,), True)


def test_entropy_is_another_name_and_a_name_said_twice_is_answered_once(digits):
    query = Query.of(digits, nets.images(1), LIMITS, outputs=["entropy", "mean", "predictive_entropy", "mean"])

    assert query.measures == ("predictive_entropy", "mean")


def test_no_measures_may_be_wanted(digits):
    assert Query.of(digits, nets.images(1), LIMITS, outputs=[]).measures == ()


@pytest.mark.parametrize("passes", [1, 50])
def test_the_bounds_of_passes_are_allowed(digits, passes):
    assert Query.of(digits, nets.images(1), LIMITS, overrides={"passes": passes}).options.passes == passes


@pytest.mark.parametrize("passes", [-1, 0, 51, 10**400], ids=["negative", "none", "one too many", "huge"])
def test_other_passes_are_refused(digits, passes):
    with pytest.raises(InvalidInput, match=r"passes is .*; this server runs 1 to 50\."):
        Query.of(digits, nets.images(1), LIMITS, overrides={"passes": passes})


@pytest.mark.parametrize("seed", [0, MAX_SEED], ids=["zero", "largest"])
def test_the_bounds_of_seeds_are_allowed(digits, seed):
    assert Query.of(digits, nets.images(1), LIMITS, overrides={"seed": seed}).options.seed == seed


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1], ids=["negative", "too large"])
def test_other_seeds_are_refused(digits, seed):
    with pytest.raises(InvalidInput, match=f"the seed is {seed}; it must lie between 0 and "):
        Query.of(digits, nets.images(1), LIMITS, overrides={"seed": seed})


def test_an_unknown_measure_is_refused_with_those_there_are(heights):
    with pytest.raises(UnknownMeasure) as refusal:
        Query.of(heights, nets.features(1), LIMITS, outputs=["mean", "predictive_entropy"])

    known = ", ".join((*REGRESSION, "passes_used", "standard_error"))
    assert str(refusal.value) == f"heights has no measure 'predictive_entropy'; it has {known}."


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.1, float("nan")], ids=str)
def test_a_quantile_level_outside_0_to_1_is_refused(heights, level):
    with pytest.raises(InvalidInput, match=f"the quantile {level} must lie strictly between 0 and 1"):
        Query.of(heights, nets.features(1), LIMITS, quantiles=[0.5, level])


# digits: 3 outputs, so 4 rows of 50 passes are the 600 numbers that are allowed
@pytest.mark.parametrize("kept", [{"samples": True}, {"quantiles": [0.5]}], ids=["samples", "quantiles"])
def test_passes_are_kept_up_to_the_bound(digits, kept):
    assert Query.of(digits, nets.images(4), LIMITS, overrides={"passes": 50}, **kept).options.passes == 50
    with pytest.raises(InvalidInput, match=r"would keep 750 numbers .*; the limit is 600"):
        Query.of(digits, nets.images(5), LIMITS, overrides={"passes": 50}, **kept)


def test_quantiles_count_by_their_levels_where_those_are_more_than_the_passes(digits):
    levels = [n / 60 for n in range(1, 60)]

    Query.of(digits, nets.images(3), LIMITS, overrides={"passes": 1}, quantiles=levels)
    with pytest.raises(InvalidInput, match="would keep 708 numbers"):
        Query.of(digits, nets.images(4), LIMITS, overrides={"passes": 1}, quantiles=levels)


def test_what_keeps_no_passes_is_not_bounded_by_them(digits):
    assert Query.of(digits, nets.images(100), LIMITS, overrides={"passes": 50}).num_rows == 100


def test_an_answer_is_that_of_the_predictor(heights):
    x = nets.features(3)
    estimate = heights.predict(x, PassOptions(8, 5), keep_draws=True)

    answer = run_query(Query(heights, {"input": x}, 3, PassOptions(8, 5), REGRESSION, (0.1, 0.9), samples=True))

    assert tuple(answer) == (*REGRESSION, "quantiles", "samples")
    for name in REGRESSION:
        assert np.array_equal(answer[name], estimate.measure(name).numpy())
    assert answer["quantiles"].shape == (3, 2, 2)
    assert np.array_equal(answer["quantiles"][:, 1], estimate.quantiles([0.9])[0].numpy())
    assert answer["samples"].shape == (3, 8, 2)
    assert np.array_equal(answer["samples"][:, 6], estimate.samples[6].numpy())


def test_the_example_is_the_first_row_in_short_numbers(digits, heights):
    assert example_row(digits) == nets.images(4)[0].int().tolist()
    assert {type(value) for row in example_row(digits) for value in row} == {int}
    assert torch.equal(torch.tensor(example_row(heights)), nets.features(4)[0])


def test_drawn_seeds_differ_and_every_json_reader_keeps_them():
    seeds = [draw_seed() for _ in range(200)]

    assert len(set(seeds)) == 200  # 200 of 2^53 agree somewhere with a chance of 2e-12
    assert all(0 <= seed < 2**53 for seed in seeds)
