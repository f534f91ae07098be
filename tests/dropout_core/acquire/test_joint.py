import itertools
import math

import pytest
import torch

from dropout_core.acquire.constraints import Constraints
from dropout_core.acquire.joint import SATURATION, batchbald
from dropout_core.errors import InvalidInput

# three rows of batchbald_redux issue 16, two passes, four classes: rows 0 and 1 are the same
_ISSUE_16 = torch.tensor(
    [
        [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]],
        [[0.15, 0.15, 0.3, 0.4], [0.15, 0.15, 0.3, 0.4], [0.4, 0.3, 0.16, 0.14]],
    ],
    dtype=torch.float64,
)


def pool(passes, rows, classes, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(passes, rows, classes, generator=generator, dtype=torch.float64)
    return torch.softmax(logits, -1)


def _entropy(values):
    return -sum(p * math.log(p) for p in values if p > 0)


def joint_information(probs, rows):
    """I(y; t), by every configuration of the rows' labels, in plain Python."""
    table = probs.tolist()
    passes, classes = len(table), range(len(table[0][0]))
    configurations = list(itertools.product(classes, repeat=len(rows)))
    likelihood = [
        [math.prod(one[row][label] for row, label in zip(rows, labels, strict=True)) for labels in configurations]
        for one in table
    ]
    mixture = [sum(column) / passes for column in zip(*likelihood, strict=True)]
    return _entropy(mixture) - sum(_entropy(one) for one in likelihood) / passes


def greedy(probs, k, costs=None):
    picks, scores = [], []
    for _ in range(k):
        left = [row for row in range(probs.shape[1]) if row not in picks]
        found = [joint_information(probs, [*picks, row]) for row in left]
        so_far = scores[-1] if scores else 0.0
        worth = [(score - so_far) / (costs[row] if costs else 1.0) for score, row in zip(found, left, strict=True)]
        best = max(range(len(left)), key=worth.__getitem__)
        picks.append(left[best])
        scores.append(found[best])
    return picks, scores


def test_issue_16_has_its_published_numbers():
    alone = [float(batchbald(_ISSUE_16[:, [row]], 1).scores[0]) for row in range(3)]
    assert alone == pytest.approx([0.00430878, 0.00430878, 0.00278788], abs=5e-9)
    assert float(batchbald(_ISSUE_16[:, [0, 1]], 2).scores[1]) == pytest.approx(0.00858085, abs=5e-9)
    assert float(batchbald(_ISSUE_16[:, [0, 2]], 2).scores[1]) == pytest.approx(0.00707287, abs=5e-9)


def test_a_copy_is_the_right_pick_where_information_is_tiny():
    assert batchbald(_ISSUE_16, 3).indices.tolist() == [0, 1, 2]


def test_a_copy_is_passed_over_where_labels_tell_the_passes_apart():
    rows = pool(4, 3, 3, spread=4.0)
    probs = torch.cat([rows, rows], dim=1)
    assert {index % 3 for index in batchbald(probs, 3).indices.tolist()} == {0, 1, 2}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("passes", "classes"), [(2, 4), (5, 3), (7, 2)])
def test_picks_and_scores_are_those_of_enumeration(passes, classes, seed):
    probs = pool(passes, 7, classes, seed)
    choice = batchbald(probs, 4)
    picks, scores = greedy(probs, 4)
    assert choice.indices.tolist() == picks
    torch.testing.assert_close(choice.scores, torch.tensor(scores, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(choice.shares, choice.scores / math.log(passes), rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", range(8))
def test_older_gains_spare_no_row_that_could_be_best(seed):
    # more rows than are scored at a time, so that rows are skipped; nearly all rows are alike, few are not
    likeness = pool(4, 1, 2, seed, spread=2.0)
    probs = torch.cat([0.99 * likeness + 0.01 * pool(4, 200, 2, seed), pool(4, 40, 2, seed + 100, spread=1.0)], dim=1)
    choice = batchbald(probs, 3)
    picks, scores = greedy(probs, 3)
    assert choice.indices.tolist() == picks
    assert choice.scores.tolist() == pytest.approx(scores, abs=1e-12)


@pytest.mark.parametrize("num_samples", [10_000, 12])
def test_scores_keep_their_bounds(num_samples):
    probs = pool(6, 12, 3, spread=3.0)
    choice = batchbald(probs, 8, num_samples=num_samples)
    alone = torch.tensor([joint_information(probs, [row]) for row in choice.indices.tolist()], dtype=torch.float64)
    assert float(choice.scores[0]) == pytest.approx(max(joint_information(probs, [row]) for row in range(12)))
    assert (choice.scores.diff() >= 0).all()
    assert (choice.scores <= math.log(6)).all()
    if num_samples == 10_000:
        assert (choice.scores >= alone.cummax(0).values - 1e-12).all()
        assert (choice.scores <= alone.cumsum(0) + 1e-12).all()


def test_scores_of_few_drawn_configurations_neither_fall_nor_pass_log_t():
    for seed in range(30):
        probs = pool(6, 12, 3, seed, spread=1.5)
        choice = batchbald(probs, 10, seed=seed, num_samples=1)
        assert (choice.scores.diff() >= 0).all()
        assert (choice.scores <= math.log(6) + 1e-12).all()


def test_one_pick_is_the_row_of_most_mutual_information():
    probs = pool(9, 40, 5)
    mean = probs.mean(0)
    bald = torch.special.entr(mean).sum(-1) - torch.special.entr(probs).sum(-1).mean(0)
    choice = batchbald(probs, 1)
    assert choice.indices.tolist() == [int(bald.argmax())]
    assert float(choice.scores[0]) == pytest.approx(float(bald.max()), abs=1e-14)
    assert float(choice.scores[0]) <= float(torch.special.entr(mean).sum(-1)[choice.indices[0]])


@pytest.mark.parametrize("num_samples", [10_000, 2])
def test_certain_labels_count_the_passes_they_tell_apart(num_samples):
    # each row splits the four passes in two halves; two of them name the pass, a third adds nothing
    halves = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 1]])
    probs = torch.nn.functional.one_hot(halves, 2).double()
    choice = batchbald(probs, 3, num_samples=num_samples)
    assert choice.indices.tolist() == [0, 1, 2]
    expected = [math.log(2), math.log(4), math.log(4)]
    assert choice.scores.tolist() == pytest.approx(expected, abs=1e-12)


def test_all_rows_of_a_pool_of_zeros_and_ones_can_be_picked():
    probs = torch.nn.functional.one_hot(torch.arange(6).repeat(3, 1) % 3, 3).float()
    choice = batchbald(probs, 6)
    assert choice.indices.tolist() == [0, 1, 2, 3, 4, 5]
    assert choice.scores.tolist() == pytest.approx([0.0] * 6, abs=1e-14)


@pytest.mark.parametrize("num_samples", [10_000, 4])
def test_one_pass_knows_nothing_and_is_saturated(num_samples):
    choice = batchbald(pool(1, 5, 4), 4, num_samples=num_samples)
    assert choice.scores.tolist() == pytest.approx([0.0] * 4, abs=1e-12)
    assert choice.shares.tolist() == [1.0] * 4
    assert choice.saturated


def test_one_class_tells_nothing():
    choice = batchbald(torch.ones(3, 4, 1), 2)
    assert choice.indices.tolist() == [0, 1]
    assert choice.scores.tolist() == pytest.approx([0.0, 0.0], abs=1e-15)
    assert not choice.saturated


def test_saturation_is_told_by_the_share_of_the_passes():
    choice = batchbald(pool(4, 30, 10, spread=3.0), 6)
    first = int((choice.shares > SATURATION).nonzero()[0])
    assert 0 < first < 5
    assert choice.saturated
    assert not batchbald(pool(4, 30, 10, spread=3.0), first).saturated


@pytest.mark.parametrize("seed", range(3))
def test_drawn_configurations_estimate_the_information_within_five_standard_errors(seed):
    # as many picks as rows: whatever the order, the last score is of the same set
    probs = pool(5, 6, 3, seed, spread=1.0)
    exact = joint_information(probs, range(6))
    # the last pick needs 3^5 configurations: they fit in 243 and not in 200
    enumerated, drawn = (float(batchbald(probs, 6, seed=seed, num_samples=size).scores[-1]) for size in (243, 200))
    assert enumerated == pytest.approx(exact, abs=1e-12)
    # each configuration adds a number in 0 … log 5, whose deviation is at most half of that
    assert drawn == pytest.approx(exact, abs=5 * math.log(5) / 2 / math.sqrt(200))
    assert drawn != pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("rows", [2, 3])
def test_drawn_configurations_are_not_biased(rows):
    # 20 labels do not fit in 19 configurations; the last gain is large, so the score is not held up by the one before
    probs = pool(8, rows, 20, spread=1.0)
    found = torch.stack([batchbald(probs, rows, seed=seed, num_samples=19).scores for seed in range(400)])
    assert (found[:, -1] > found[:, -2]).all()
    error = float(found[:, -1].std()) / math.sqrt(len(found))
    assert 0 < error < 0.01
    assert float(found[:, -1].mean()) == pytest.approx(joint_information(probs, range(rows)), abs=5 * error)


def test_a_seed_fixes_the_whole_choice():
    probs = pool(6, 30, 4)
    first, second, other = (batchbald(probs, 7, seed=seed, num_samples=60) for seed in (3, 3, 4))
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.scores, second.scores)
    assert not torch.equal(first.scores, other.scores)


@pytest.mark.parametrize("num_samples", [10_000, 12])
def test_the_byte_budget_changes_nothing(num_samples):
    probs = pool(6, 100, 4)
    one, many = (batchbald(probs, 4, num_samples=num_samples, max_bytes=size) for size in (1, 2**24))
    assert torch.equal(one.indices, many.indices)
    torch.testing.assert_close(one.scores, many.scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_samples", [10_000, 100])
def test_the_order_of_the_rows_changes_nothing(num_samples):
    probs = pool(6, 100, 4)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    straight, shuffled = (batchbald(p, 6, num_samples=num_samples) for p in (probs, probs[:, order]))
    assert torch.equal(order[shuffled.indices], straight.indices)
    torch.testing.assert_close(shuffled.scores, straight.scores, rtol=0, atol=1e-12)


def test_equal_rows_are_picked_lowest_first():
    row = pool(5, 1, 3)
    assert batchbald(row.expand(-1, 200, -1), 4).indices.tolist() == [0, 1, 2, 3]


def test_only_the_best_candidates_are_considered():
    probs = pool(5, 40, 3)
    alone = torch.tensor([joint_information(probs, [row]) for row in range(40)])
    best = alone.topk(6).indices.sort().values
    culled = batchbald(probs, 4, candidates=6)
    assert torch.equal(culled.indices, best[batchbald(probs[:, best], 4).indices])
    assert not torch.equal(culled.indices, batchbald(probs, 4).indices)
    # a quota of the picks leaves as many times as many candidates to pick from
    twelve = batchbald(probs, 4, candidates=12).indices
    one_group = Constraints(groups=[0] * 40, quotas=4)
    assert torch.equal(batchbald(probs, 4, candidates=12, limits=one_group).indices, twelve)
    assert set(twelve.tolist()) != set(batchbald(probs, 4, candidates=4).indices.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_a_pick_is_the_row_that_adds_most_per_cost(seed):
    # costs far apart, and more rows than are scored at a time, most of them alike
    likeness = pool(4, 1, 2, seed)
    probs = torch.cat([0.99 * likeness + 0.01 * pool(4, 80, 2, seed), pool(4, 20, 2, seed + 9)], dim=1)
    costs = (2 * torch.randn(100, generator=torch.Generator().manual_seed(seed))).exp().double()
    choice = batchbald(probs, 3, limits=Constraints(costs=costs))
    picks, scores = greedy(probs, 3, costs.tolist())
    assert choice.indices.tolist() == picks
    assert choice.scores.tolist() == pytest.approx(scores, abs=1e-12)


def test_excluded_rows_are_as_if_they_were_not_there():
    probs, out = pool(5, 20, 3), batchbald(pool(5, 20, 3), 3).indices.tolist()
    rest = torch.tensor([row for row in range(20) if row not in out])
    choice = batchbald(probs, 4, limits=Constraints(exclude=out))
    alone = batchbald(probs[:, rest], 4)
    assert torch.equal(choice.indices, rest[alone.indices])
    assert torch.equal(choice.scores, alone.scores)
    assert batchbald(probs, 4, limits=Constraints(exclude=range(20))).indices.tolist() == []


@pytest.mark.parametrize("candidates", [None, 8])
def test_a_full_group_gives_no_more_rows(candidates):
    probs, groups = pool(5, 20, 3), [row % 2 for row in range(20)]
    free = batchbald(probs, 20).indices.tolist()
    first = free[0] % 2
    choice = batchbald(probs, 4, candidates=candidates, limits=Constraints(groups=groups, quotas={first: 1}))
    assert choice.indices[0] == free[0]
    # all others are of the other group: as they are picked where only the first row of this one is there
    kept = [row for row in range(20) if row % 2 != first or row == free[0]]
    if candidates is None:
        assert choice.indices.tolist() == [kept[row] for row in batchbald(probs[:, kept], 4).indices.tolist()]
    assert [row % 2 != first for row in choice.indices.tolist()] == [False, True, True, True]


def test_a_pool_smaller_than_k_is_returned_whole():
    assert sorted(batchbald(pool(4, 3, 2), 10).indices.tolist()) == [0, 1, 2]
    assert batchbald(pool(4, 0, 2), 10).indices.tolist() == []


def test_half_precision_is_answered_as_its_values_are():
    probs = pool(4, 20, 3).bfloat16()
    exact = probs.double() / probs.double().sum(-1, keepdim=True)
    assert torch.equal(batchbald(probs, 3).indices, batchbald(exact, 3).indices)
    # sums of 4 passes and 3 classes are taken in another order for another memory layout
    torch.testing.assert_close(batchbald(probs, 3).scores, batchbald(exact, 3).scores, rtol=1e-14, atol=0)


def test_the_input_is_left_as_it_was():
    probs = pool(4, 20, 3)
    before = probs.clone()
    batchbald(probs, 3)
    assert torch.equal(probs, before)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.rand(3, 4),
        torch.zeros(0, 4, 2),
        torch.zeros(3, 4, 0),
        torch.ones(3, 4, 1, dtype=torch.int64),
        torch.full((3, 4, 1), 0.3),
        torch.full((3, 4, 2), math.nan),
        torch.tensor([1.5, -0.5]).expand(3, 4, 2),
        torch.tensor([math.inf, 0.0]).expand(3, 4, 2),
    ],
)
def test_what_is_not_probabilities_is_refused(wrong):
    with pytest.raises(InvalidInput, match="is wanted"):
        batchbald(wrong, 1)


@pytest.mark.parametrize(
    ("k", "options"), [(0, {}), (-1, {}), (3, {"candidates": 2}), (1, {"num_samples": 0}), (1, {"max_bytes": 0})]
)
def test_sizes_below_their_least_are_refused(k, options):
    with pytest.raises(InvalidInput, match="at least"):
        batchbald(pool(2, 4, 2), k, **options)
