import pytest
import torch

from dropout_core.acquire.scores import RANDOM, SCORES, checked_score, rank
from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.mc.engine import Chunk
from dropout_core.mc.estimate import estimate_of
from dropout_core.noise import uniform

# four rows, two passes each: certain, torn in every pass, torn between the passes, a little of both
PROBABILITIES = torch.tensor(
    [
        [[0.99, 0.01], [0.5, 0.5], [0.9, 0.1], [0.7, 0.3]],
        [[0.99, 0.01], [0.5, 0.5], [0.1, 0.9], [0.6, 0.4]],
    ],
    dtype=torch.float64,
)
# three rows of two targets; the passes differ by 2 and 0, by 0 and 6, by 4 and 4
MEANS = torch.tensor([[[0, 5], [0, 0], [0, 0]], [[2, 5], [0, 6], [4, 4]]], dtype=torch.float64)


def classified(probabilities=PROBABILITIES):
    return estimate_of([Chunk(0, probabilities)], "probabilities", len(probabilities), 0, "captured")


def regressed():
    return estimate_of([Chunk(0, MEANS)], "mean", len(MEANS), 0, "captured")


def ranked(score, k, estimate=None, seed=0):
    estimate = estimate or classified()
    return rank(score, len(estimate.mean), k, seed, lambda: estimate.measure(score))


def never():
    raise AssertionError("the network ran")


@pytest.mark.parametrize(
    ("score", "order"),
    [
        ("mutual_information", [2, 3, 0, 1]),  # the first and the second row agree with themselves: 0
        ("predictive_entropy", [1, 2, 3, 0]),  # rows 1 and 2 are both torn in the mean
        ("margin", [1, 2, 3, 0]),
        ("variance", [2, 3, 0, 1]),
    ],
)
def test_a_score_puts_the_most_uncertain_row_first_and_keeps_the_order_of_equal_ones(score, order):
    assert ranked(score, 4).indices.tolist() == order


def test_every_score_is_tested():
    assert set(SCORES) == {"mutual_information", "predictive_entropy", "margin", "variance"}


def test_scores_are_the_measures_own_numbers_in_their_own_sign():
    margin = ranked("margin", 4)

    assert margin.scores.tolist() == pytest.approx([0.0, 0.0, 0.3, 0.98], abs=1e-15)  # roundings of numbers below 1
    assert margin.reduction is None
    for score in ("mutual_information", "predictive_entropy"):
        ranking = ranked(score, 3)
        assert torch.equal(ranking.scores, classified().measure(score)[ranking.indices])


def test_several_outputs_become_their_mean_and_it_is_said():
    ranking = ranked("variance", 3, regressed())

    # population variances 1 and 0, 0 and 9, 4 and 4
    assert ranking.indices.tolist() == [1, 2, 0]
    assert ranking.scores.tolist() == [4.5, 4.0, 0.5]
    assert ranking.reduction == "mean"


def test_a_single_output_is_not_reduced():
    estimate = estimate_of([Chunk(0, MEANS[..., :1])], "mean", 2, 0, "captured")

    ranking = ranked("variance", 3, estimate)

    assert ranking.indices.tolist() == [2, 0, 1]
    assert ranking.scores.tolist() == [4.0, 1.0, 0.0]
    assert ranking.reduction is None


@pytest.mark.parametrize("score", [*SCORES, RANDOM])
@pytest.mark.parametrize("k", [1, 2, 4, 5, 1000])
def test_the_best_k_are_the_first_of_all(score, k):
    some, every = ranked(score, k), ranked(score, 4)

    assert len(some.indices) == len(some.scores) == min(k, 4)
    assert torch.equal(some.indices, every.indices[:k])
    assert torch.equal(some.scores, every.scores[:k])


@pytest.mark.parametrize("score", list(SCORES))
def test_equal_rows_keep_their_order_however_many(score):
    same = classified(PROBABILITIES[:, 3:].repeat(1, 1000, 1))

    assert ranked(score, 1000, same).indices.tolist() == list(range(1000))


@pytest.mark.parametrize("score", [*SCORES, RANDOM])
def test_no_rows_are_no_choice(score):
    none = classified(PROBABILITIES[:, :0])

    ranking = ranked(score, 3, none)

    assert ranking.indices.tolist() == ranking.scores.tolist() == []


def test_chance_runs_no_network_and_is_decided_by_the_seed():
    first, again, other = (rank(RANDOM, 50, 50, seed, never) for seed in (1, 1, 2))

    assert torch.equal(first.indices, again.indices)
    assert sorted(first.indices.tolist()) == list(range(50))
    assert first.indices.tolist() != other.indices.tolist()
    assert first.reduction is None
    assert (first.scores.diff() <= 0).all()
    assert ((first.scores >= 0) & (first.scores < 1)).all()


def test_a_rows_chance_does_not_depend_on_how_many_rows_there_are():
    few, many = (rank(RANDOM, count, count, 3, never) for count in (10, 40))

    kept = [(index, score) for index, score in zip(many.indices, many.scores, strict=True) if index < 10]
    assert [index.item() for index, _ in kept] == few.indices.tolist()
    assert [score.item() for _, score in kept] == few.scores.tolist()


def test_every_row_is_chosen_as_often_by_chance():
    draws, rows = 3000, 5
    first = torch.tensor([rank(RANDOM, rows, 1, seed, never).indices.item() for seed in range(draws)])

    share = torch.bincount(first, minlength=rows) / draws
    error = (1 / rows * (1 - 1 / rows) / draws) ** 0.5
    assert (share - 1 / rows).abs().max() < 5 * error


def test_chance_is_independent_of_the_masks_of_a_networks_sites():
    scores = rank(RANDOM, 1000, 1000, 0, never).scores

    for site in range(4):
        noise = uniform(0, site, torch.zeros(1, dtype=torch.int64), (1000,))[0]
        assert not torch.equal(noise.sort(descending=True).values, scores)


def test_a_score_asks_for_its_measure_once():
    calls = []
    rank("margin", 4, 4, 0, lambda: calls.append(1) or classified().margin)

    assert calls == [1]


@pytest.mark.parametrize("score", ["bald", "std", "mean", ""], ids=["unknown", "std", "mean", "empty"])
def test_what_is_no_score_is_refused_with_those_of_the_task(score):
    for estimate, known in (
        (classified(), "mutual_information, predictive_entropy, margin, variance, random"),
        (regressed(), "variance, random"),
    ):
        with pytest.raises(UnknownMeasure, match=f"^there is no score {score!r} for this model; there are {known}\\.$"):
            checked_score(score, estimate.measures)


def test_a_score_of_another_task_is_unknown():
    with pytest.raises(UnknownMeasure, match="there are variance, random"):
        checked_score("margin", regressed().measures)


@pytest.mark.parametrize("score", [*SCORES, RANDOM])
def test_a_score_of_the_task_is_itself(score):
    assert checked_score(score, classified().measures) == score


@pytest.mark.parametrize("k", [0, -1], ids=["none", "negative"])
@pytest.mark.parametrize("score", ["margin", RANDOM])
def test_fewer_than_one_row_cannot_be_chosen(score, k):
    with pytest.raises(InvalidInput, match=f"k is {k}; ask for at least 1 row"):
        rank(score, 3, k, 0, never)
