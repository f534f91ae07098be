import math
from collections import Counter
from itertools import combinations, permutations

import pytest
import torch

from dropout_core.acquire import (
    Constraints,
    RankOptions,
    badge,
    batch_epig,
    batchbald,
    choose,
    epig,
    k_centre,
    pointwise,
    power,
    softmax,
    softrank,
    top_k,
)
from dropout_core.errors import InvalidInput
from tests.dropout_core.acquire.test_select import assert_law
from tests.support.choice_driver import Driver

CLASS_SCORES = {
    name: getattr(pointwise, name)
    for name in (
        "predictive_entropy",
        "expected_entropy",
        "mutual_information",
        "least_confidence",
        "vote_variation_ratio",
        "mean_std",
    )
}
PARTS = ("predictive_entropy", "expected_entropy", "mutual_information")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def probabilities(passes, rows, classes, seed=0, spread=2.0):
    return (spread * torch.randn(passes, rows, classes, dtype=torch.float64, generator=generator(seed))).softmax(-1)


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def close(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CLASS_SCORES)
def test_a_score_chooses_its_largest_rows_and_says_what_they_are_made_of(name):
    probs = probabilities(9, 40, 4)
    scores = CLASS_SCORES[name](probs)

    ranking = Driver({"pool": probs}).choose(k=6, score=name, seed=3)

    assert torch.equal(ranking.indices, top_k(scores, 6, 3))
    assert close(ranking.scores, scores[ranking.indices])
    assert (ranking.score, ranking.reduction, ranking.shares, ranking.considered) == (name, None, None, 40)
    assert not ranking.saturated
    assert set(ranking.parts) == {*PARTS, "margin"}
    for part in PARTS:
        assert close(ranking.parts[part], CLASS_SCORES[part](probs)[ranking.indices])
    assert close(ranking.parts["margin"], -pointwise.margin(probs)[ranking.indices])


def test_a_small_margin_is_first_and_keeps_its_sign():
    probs = probabilities(9, 40, 4)
    margins = -pointwise.margin(probs)

    ranking = Driver({"pool": probs}).choose(k=40, score="margin")

    assert close(ranking.scores, margins.sort().values)
    assert (ranking.scores >= 0).all()


def test_a_margin_can_be_drawn_by_power_and_divided_by_costs():
    probs, costs = probabilities(9, 30, 3), numbers(30, seed=5).exp()
    urgency = 1.0 + pointwise.margin(probs)

    drawn = Driver({"pool": probs}).choose(k=8, score="margin", selector="power", seed=2)
    per_cost = Driver({"pool": probs}).choose(k=8, score="margin", costs=costs)

    assert torch.equal(drawn.indices, power(urgency, 8, 2))
    assert torch.equal(per_cost.indices, top_k(urgency / costs, 8, 0))


@pytest.mark.parametrize(("selector", "select"), [("power", power), ("softmax", softmax), ("softrank", softrank)])
@pytest.mark.parametrize("beta", [None, 0.5, 7.0])
def test_a_selector_draws_as_its_function_does(selector, select, beta):
    probs = probabilities(9, 40, 4)
    given = {} if beta is None else {"beta": beta}

    ranking = Driver({"pool": probs}).choose(k=10, score="bald", selector=selector, seed=4, **given)

    assert torch.equal(ranking.indices, select(pointwise.mutual_information(probs), 10, 4, **given))
    assert ranking.score == "mutual_information"


@pytest.mark.parametrize("selector", ["power", "softmax", "softrank"])
def test_a_draw_follows_its_beta_of_one_order_or_another(selector):
    probs = probabilities(9, 40, 4)
    best = Driver({"pool": probs}).choose(k=40).indices

    sharp = Driver({"pool": probs}).choose(k=40, selector=selector, beta=1e7).indices
    blunt = Driver({"pool": probs}).choose(k=40, selector=selector, beta=0).indices

    assert torch.equal(sharp, best)
    assert not torch.equal(blunt, best)


def test_the_usual_score_is_mutual_information_or_for_regression_the_variance():
    assert Driver({"pool": probabilities(4, 5, 3)}).choose(k=1).score == "mutual_information"
    assert Driver({"pool": probabilities(4, 5, 3)}, output="multilabel_probabilities").choose(k=1).score == (
        "mutual_information"
    )
    assert Driver({"pool": numbers(4, 5, 2)}, output="mean").choose(k=1).score == "variance"


def regressed(name, means, variances):
    return {
        "variance": lambda: pointwise.variance(means, variances),
        "epistemic_variance": lambda: pointwise.epistemic_variance(means),
        "gaussian_mutual_information": lambda: pointwise.gaussian_mutual_information(means, variances),
        "upper_confidence_bound": lambda: pointwise.upper_confidence_bound(means, 2.0),
        "thompson": lambda: means[0],
    }[name]()


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize(
    "name", ["variance", "epistemic_variance", "gaussian_mutual_information", "upper_confidence_bound", "thompson"]
)
def test_scores_of_a_regression_are_reduced_over_its_outputs(name, reduction):
    means, logs = numbers(8, 25, 3), numbers(8, 25, 3, seed=1)
    scores = pointwise.reduce(regressed(name, means, logs.exp()), reduction)
    driver = Driver({"pool": torch.cat([means, logs], -1)}, output="mean_and_log_variance")

    ranking = driver.choose(k=5, score=name, reduction=reduction)

    assert torch.equal(ranking.indices, top_k(scores, 5, 0))
    assert close(ranking.scores, scores[ranking.indices])
    assert ranking.reduction == reduction
    assert set(ranking.parts) == {"variance", "epistemic_variance", "aleatoric_variance"}
    epistemic = pointwise.reduce(pointwise.epistemic_variance(means), reduction)
    assert close(ranking.parts["epistemic_variance"], epistemic[ranking.indices])


def test_a_bound_is_as_many_deviations_up_as_are_asked_for():
    means = numbers(8, 25, 1)
    for deviations in (0.0, 5.0):
        ranking = Driver({"pool": means}, output="mean").choose(
            k=25, score="upper_confidence_bound", deviations=deviations
        )
        bound = pointwise.upper_confidence_bound(means, deviations)[:, 0]
        assert close(ranking.scores, bound.sort(descending=True).values)
        assert ranking.reduction is None


def test_thompson_runs_the_pool_for_one_pass_and_the_chosen_rows_for_all():
    driver = Driver({"pool": numbers(8, 25, 1)}, output="mean")

    ranking = driver.choose(k=3, score="thompson")

    pool, chosen = driver.needs
    assert (pool.passes, pool.measures, pool.rows) == (1, ("mean",), None)
    assert chosen.passes is None
    assert torch.equal(chosen.rows, ranking.indices.sort().values)


def test_a_mean_over_positions_hides_what_the_largest_and_a_fraction_show():
    # row 0: one position in eight is torn; row 1: all are a little unsure; two passes that agree
    torn, sure, unsure = [0.5, 0.5], [0.999, 0.001], [0.9, 0.1]
    one = torch.tensor([[torn] + [sure] * 7, [unsure] * 8], dtype=torch.float64)
    driver = Driver({"pool": one.expand(2, 2, 8, 2)})

    for score in ("predictive_entropy", "least_confidence", "margin"):
        firsts = {
            reduction: driver.choose(k=1, score=score, reduction=reduction, fraction=fraction).indices.item()
            for reduction, fraction in (("mean", None), ("max", None), ("top_fraction", 0.125))
        }
        assert firsts == {"mean": 1, "max": 0, "top_fraction": 0}
    largest = driver.choose(k=2, score="margin", reduction="max")
    assert largest.scores.tolist() == pytest.approx([0, 0.8], abs=1e-12)
    assert largest.parts["margin"].tolist() == pytest.approx([0, 0.8], abs=1e-12)
    assert largest.reduction == "max"


def test_chance_asks_for_nothing_and_its_first_rows_are_those_of_a_smaller_pool():
    driver = Driver({"pool": probabilities(2, 50, 2)})

    ranking = driver.choose(k=50, score="random", seed=7)

    assert driver.needs == []
    assert ranking.parts == {}
    few = Driver({"pool": probabilities(2, 20, 2)}).choose(k=20, score="random", seed=7).indices
    assert [row for row in ranking.indices.tolist() if row < 20] == few.tolist()
    kept = driver.choose(k=5, score="random", groups=[0] * 25 + [1] * 25, quotas={0: 1}, exclude=[30]).indices
    assert sorted(row // 25 for row in kept.tolist()) == [0, 1, 1, 1, 1]
    assert 30 not in kept.tolist()


def test_every_pair_is_as_often_chosen_by_chance():
    driver = Driver({"pool": probabilities(2, 4, 2)})

    counts = Counter(frozenset(driver.choose(k=2, score="random", seed=seed).indices.tolist()) for seed in range(600))

    assert_law(counts, {frozenset(pair): 1 / 6 for pair in combinations(range(4), 2)}, 600)


def test_equal_rows_come_in_each_order_as_often_whatever_the_selector():
    probs = probabilities(3, 1, 3).expand(3, 3, 3)
    embeddings = torch.ones(3, 2)
    for asked in ({"score": "bald"}, {"selector": "batchbald"}, {"selector": "k_centre"}):
        driver = Driver({"pool": probs}, {"pool": embeddings})
        counts = Counter(tuple(driver.choose(k=3, seed=seed, **asked).indices.tolist()) for seed in range(200))
        assert_law(counts, dict.fromkeys(permutations(range(3)), 1 / 6), 200)


def test_batchbald_of_the_best_candidates_alone():
    probs = probabilities(6, 60, 3)
    scores = pointwise.mutual_information(probs)
    best = top_k(scores, 12, 1)
    driver = Driver({"pool": probs}, chunk_rows=7)

    ranking = driver.choose(k=5, selector="batchbald", candidates=12, seed=1)

    expected = batchbald(probs[:, best], 5, seed=1)
    assert torch.equal(ranking.indices, best[expected.indices])
    assert close(ranking.scores, expected.scores)
    assert close(ranking.shares, expected.shares)
    assert ranking.considered == 12
    assert close(ranking.parts["mutual_information"], scores[ranking.indices])
    # passes of twelve rows are all that is ever held
    assert [need.samples for need in driver.needs] == [False, True]
    assert torch.equal(driver.needs[1].rows, best.sort().values)
    assert driver.most_held == 1


def test_one_pick_of_batchbald_is_balds_best_and_its_scores_keep_their_bounds():
    probs = probabilities(8, 30, 3)
    alone = Driver({"pool": probs}).choose(k=1)

    ranking = Driver({"pool": probs}).choose(k=6, selector="batchbald")

    assert ranking.indices[0] == alone.indices[0]
    assert ranking.scores[0].item() == pytest.approx(alone.scores[0].item(), abs=1e-13)
    bald = ranking.parts["mutual_information"]
    assert (ranking.scores >= bald.cummax(0).values - 1e-12).all()
    assert (ranking.scores <= bald.cumsum(0) + 1e-12).all()
    assert (ranking.scores <= math.log(8) + 1e-12).all()


def test_few_passes_are_soon_used_up_and_it_is_said():
    probs = probabilities(4, 30, 10, spread=3.0)

    assert Driver({"pool": probs}).choose(k=6, selector="batchbald").saturated
    assert not Driver({"pool": probs}).choose(k=1, selector="batchbald").saturated
    assert Driver({"pool": probs[:1]}).choose(k=1, selector="batchbald").saturated


def test_a_copy_is_shunned_only_where_its_label_would_tell_little_more():
    rows = probabilities(4, 3, 3, spread=4.0)
    told_apart = Driver({"pool": torch.cat([rows, rows], dim=1)}).choose(k=3, selector="batchbald")
    assert {row % 3 for row in told_apart.indices.tolist()} == {0, 1, 2}
    # the rows of batchbald_redux issue 16, of which 0 and 1 are the same
    tiny = torch.tensor(
        [
            [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]],
            [[0.15, 0.15, 0.3, 0.4], [0.15, 0.15, 0.3, 0.4], [0.4, 0.3, 0.16, 0.14]],
        ],
        dtype=torch.float64,
    )
    ranking = Driver({"pool": tiny}).choose(k=2, selector="batchbald")
    assert sorted(ranking.indices.tolist()) == [0, 1]
    assert ranking.scores.tolist() == pytest.approx([0.00430878, 0.00858085], abs=5e-9)


def test_epig_and_its_batch_ask_for_the_targets_first():
    probs, targets = probabilities(5, 40, 3), probabilities(5, 6, 3, seed=1)
    scores = epig(probs, targets)
    driver = Driver({"pool": probs, "targets": targets}, chunk_rows=9)

    alone = driver.choose(k=4, score="epig")
    batch = driver.choose(k=4, selector="batchbald", candidates=10, num_samples=50)

    assert torch.equal(alone.indices, top_k(scores, 4, 0))
    assert close(alone.scores, scores[alone.indices])
    assert [need.of for need in driver.needs] == ["targets", "pool", "targets", "pool", "pool"]
    assert driver.most_held == 1
    best = top_k(scores, 10, 0)
    expected = batch_epig(probs[:, best], targets, 4, num_samples=50)
    assert batch.score == "epig"
    assert torch.equal(batch.indices, best[expected.indices])
    assert close(batch.scores, expected.scores)
    assert close(batch.shares, expected.shares)


def test_k_centre_and_badge_on_embeddings():
    probs, rows, labelled = probabilities(5, 30, 3), numbers(30, 4), numbers(3, 4, seed=1)
    plain = Driver({"pool": probs}, {"pool": rows}, chunk_rows=8)
    known = Driver({"pool": probs}, {"pool": rows, "labelled": labelled}, chunk_rows=8)

    assert torch.equal(plain.choose(k=6, selector="k_centre", seed=2).indices, k_centre(rows, None, 6, 2))
    far = known.choose(k=6, selector="k_centre", seed=2)
    gradients = plain.choose(k=6, selector="badge", seed=2)

    assert torch.equal(far.indices, k_centre(rows, labelled, 6, 2))
    assert torch.equal(gradients.indices, badge(probs.mean(0), rows, 6, 2))
    assert far.score is far.scores is far.shares is None
    for ranking in (far, gradients):
        assert close(ranking.parts["mutual_information"], pointwise.mutual_information(probs)[ranking.indices])


@pytest.mark.parametrize("selector", ["k_centre", "badge"])
def test_embeddings_are_asked_for_as_many_rows_as_are_considered(selector):
    driver = Driver({"pool": probabilities(2, 50, 2)}, {"pool": numbers(50, 3)})

    ranking = driver.choose(k=4, selector=selector, candidates=9, groups=[0, 1] * 25, quotas={0: 1})

    considered = driver.needs[0].rows
    assert len(considered) == ranking.considered == 9
    assert set(ranking.indices.tolist()) <= set(considered.tolist())
    # nine rows of which at most two are of group 0: enough for one of it and three of the other
    assert (considered % 2 == 0).sum() <= 2
    assert sorted(row % 2 for row in ranking.indices.tolist())[1:] == [1, 1, 1]
    other = Driver({"pool": probabilities(2, 50, 2)}, {"pool": numbers(50, 3)})
    other.choose(k=4, selector=selector, candidates=9, seed=1)
    assert not torch.equal(other.needs[0].rows, considered)


ALL = [
    {"score": "margin"},
    {"score": "bald", "selector": "power"},
    {"selector": "softmax"},
    {"selector": "softrank"},
    {"selector": "batchbald"},
    {"selector": "k_centre"},
    {"selector": "badge"},
    {"score": "random"},
]


def driver_of(rows=30, chunk_rows=1000):
    return Driver({"pool": probabilities(5, rows, 3)}, {"pool": numbers(rows, 4)}, chunk_rows=chunk_rows)


@pytest.mark.parametrize("asked", ALL, ids=str)
def test_a_seed_fixes_the_whole_choice_whatever_the_chunks(asked):
    first = driver_of().choose(k=6, seed=9, **asked)
    for chunk_rows in (1, 7):
        again = driver_of(chunk_rows=chunk_rows).choose(k=6, seed=9, **asked)
        assert torch.equal(first.indices, again.indices)
        assert first.scores is None or close(first.scores, again.scores)


@pytest.mark.parametrize("asked", ALL, ids=str)
def test_excluded_rows_are_never_run_and_never_chosen(asked):
    driver = driver_of()
    out = [3, 3, 17, *range(20, 30)]

    ranking = driver.choose(k=30, exclude=out, **asked)

    assert sorted(ranking.indices.tolist()) == sorted(set(range(30)) - set(out))
    for need in driver.needs:
        assert not set(need.rows.tolist()) & set(out)


@pytest.mark.parametrize("asked", ALL, ids=str)
def test_quotas_of_groups_hold_and_are_filled(asked):
    groups = ["abc"[row % 3] for row in range(30)]

    ranking = driver_of().choose(k=9, groups=groups, quotas={"a": 2, "b": 0}, **asked)

    chosen = Counter(groups[row] for row in ranking.indices.tolist())
    assert chosen["b"] == 0
    assert chosen["a"] <= 2
    assert chosen["a"] + chosen["c"] == 9


@pytest.mark.parametrize("asked", ALL[:-1], ids=str)
def test_quotas_of_predicted_classes(asked):
    predicted = probabilities(5, 30, 3).mean(0).argmax(-1)
    assert torch.bincount(predicted, minlength=3).min() >= 2

    ranking = driver_of().choose(k=30, groups="predicted_class", quotas=2, exclude=[0, 1], **asked)

    left = torch.bincount(predicted[2:], minlength=3).clamp_max(2)
    assert torch.equal(torch.bincount(predicted[ranking.indices], minlength=3), left)


def test_candidates_of_batchbald_leave_enough_rows_of_every_group():
    # the eight most informative rows are of one group that may give one
    probs = torch.cat([probabilities(5, 8, 3, spread=4.0), probabilities(5, 8, 3, spread=0.1)], dim=1)

    ranking = Driver({"pool": probs}).choose(
        k=4, selector="batchbald", candidates=4, groups=[0] * 8 + [1] * 8, quotas={0: 1}
    )

    assert sorted(row // 8 for row in ranking.indices.tolist()) == [0, 1, 1, 1]
    # of a group that may give two of four, half of the candidates: there is something to choose from
    half = Driver({"pool": probs}).choose(k=4, selector="batchbald", candidates=8, groups=[0] * 16, quotas=2)
    assert (half.considered, len(half.indices)) == (4, 2)


def test_batchbald_per_cost():
    probs, costs = probabilities(5, 20, 3), numbers(20, seed=3).exp()
    expected = batchbald(probs, 4, limits=Constraints(costs=costs)).indices

    ranking = Driver({"pool": probs}).choose(k=4, selector="batchbald", costs=costs)

    assert torch.equal(ranking.indices, expected)
    assert not torch.equal(expected, batchbald(probs, 4).indices)


@pytest.mark.parametrize("asked", ALL, ids=str)
def test_no_rows_one_row_and_none_that_is_left(asked):
    for ranking in (
        driver_of(0).choose(k=3, **asked),
        driver_of(5).choose(k=3, exclude=range(5), **asked),
        driver_of(5).choose(k=3, groups=[0] * 5, quotas={0: 0}, **asked),
    ):
        assert ranking.indices.tolist() == []
        assert ranking.indices.dtype == torch.int64
        assert not ranking.saturated
        assert all(len(values) == 0 for values in ranking.parts.values())
    assert driver_of(1).choose(k=3, **asked).indices.tolist() == [0]


@pytest.mark.parametrize("asked", ALL[:-1], ids=str)
@pytest.mark.parametrize("probs", [torch.ones(4, 6, 1), probabilities(1, 6, 3), torch.eye(3).expand(4, 3, 3)])
def test_one_class_one_pass_and_certain_rows_are_ranked(asked, probs):
    rows = probs.shape[1]
    driver = Driver({"pool": probs}, {"pool": numbers(rows, 2)})

    assert sorted(driver.choose(k=rows, **asked).indices.tolist()) == list(range(rows))


def test_a_certain_row_that_the_passes_split_over_comes_first():
    # 0 · log 0 is 0: elsewhere this row is NaN, and the row to ask about
    probs = probabilities(2, 5, 2, spread=0.5)
    probs[:, 3] = torch.eye(2, dtype=torch.float64)
    for asked in ({"score": "bald"}, {"score": "entropy"}, {"selector": "batchbald"}):
        ranking = Driver({"pool": probs}).choose(k=1, **asked)
        assert ranking.indices.tolist() == [3]
        assert ranking.scores.tolist() == pytest.approx([math.log(2)], abs=1e-15)


def test_nan_is_refused_unless_its_row_is_excluded():
    probs = probabilities(3, 6, 2)
    probs[1, 4] = math.nan

    with pytest.raises(InvalidInput, match="NaN"):
        Driver({"pool": probs}).choose(k=2)
    assert len(Driver({"pool": probs}).choose(k=6, exclude=[4]).indices) == 5


def test_classes_of_positions_have_no_quota():
    with pytest.raises(InvalidInput, match="one class each"):
        Driver({"pool": probabilities(3, 6, 8).reshape(3, 6, 4, 2).softmax(-1)}).choose(
            k=2, groups="predicted_class", quotas=1
        )


def test_a_driver_that_sends_other_rows_than_were_needed_is_told():
    choice = choose(RankOptions("probabilities", 6, 2, exclude=[0]))
    need = next(choice)
    sent = need.kept({name: torch.zeros(6, dtype=torch.float64) for name in need.measures})

    with pytest.raises(InvalidInput, match="6 rows were sent where 5 were needed"):
        choice.send(sent)
