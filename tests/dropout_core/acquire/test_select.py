import math
from collections import Counter
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropout_core.acquire import select
from dropout_core.acquire.select import Limits, badge, k_centre, power, softmax, softrank, top_k
from dropout_core.errors import InvalidInput

SEEDS = 600
SELECTORS = {"top_k": top_k, "power": power, "softmax": softmax, "softrank": softrank}
SCORES = torch.tensor([0.3, 0.1, 0.4, 0.2], dtype=torch.float64)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def distinct(count, seed):
    """Distinct scores 1/count … 1 in a random order."""
    return (torch.randperm(count, generator=generator(seed)) + 1).double() / count


def pool(count, width, seed, classes=4):
    probs = (2 * torch.randn(count, classes, dtype=torch.float64, generator=generator(seed))).softmax(-1)
    return probs, torch.randn(count, width, dtype=torch.float64, generator=generator(seed + 1))


def assert_law(counts, probabilities, draws):
    """Each share within five standard errors of its probability, and nothing besides."""
    assert set(counts) <= set(probabilities)
    for outcome, p in probabilities.items():
        assert abs(counts[outcome] / draws - p) <= 5 * math.sqrt(p * (1 - p) / draws), (outcome, p)


def without_replacement(weights, k):
    """P of each ordered choice of k rows, each pick proportional to its weight among those left."""
    law = {}
    for choice in permutations(range(len(weights)), k):
        left, p = sum(weights), 1.0
        for row in choice:
            p *= weights[row] / left
            left -= weights[row]
        law[choice] = p
    return law


@pytest.mark.parametrize(
    ("select_rows", "beta", "weights"),
    [
        (power, 1.0, [0.3, 0.1, 0.4, 0.2]),
        (power, 2.0, [9, 1, 16, 4]),
        (power, 0.0, [1, 1, 1, 1]),
        (softmax, 6.0, [math.exp(6 * s) for s in (0.3, 0.1, 0.4, 0.2)]),
        (softmax, 0.0, [1, 1, 1, 1]),
        (softrank, 1.0, [1 / 2, 1 / 4, 1, 1 / 3]),
        (softrank, 2.0, [1 / 4, 1 / 16, 1, 1 / 9]),
    ],
)
def test_the_law_of_the_first_two_picks(select_rows, beta, weights):
    counts = Counter(tuple(select_rows(SCORES, 2, seed, beta).tolist()) for seed in range(SEEDS))

    assert_law(counts, without_replacement(weights, 2), SEEDS)


@pytest.mark.parametrize("select_rows", [power, softmax, softrank])
def test_a_large_beta_is_top_k(select_rows):
    scores = distinct(30, 0)

    for seed in range(5):
        assert torch.equal(select_rows(scores, 10, seed, 1e6), top_k(scores, 10, seed))


def test_softmax_takes_negative_scores_and_softrank_only_their_order():
    # a shift changes no law, and the draws are the same
    assert torch.equal(softmax(SCORES - 100, 4, 1, 3.0), softmax(SCORES, 4, 1, 3.0))
    for seed in range(20):
        assert torch.equal(softrank(SCORES.log(), 4, seed), softrank(SCORES, 4, seed))


def test_power_leaves_rows_of_score_0_to_the_end_in_random_order():
    # rounding puts a mutual information of 0 a little below
    scores = torch.tensor([0.0, 0.5, -1e-9, 0.0, 0.1], dtype=torch.float64)

    choices = [power(scores, 5, seed).tolist() for seed in range(SEEDS)]

    assert {frozenset(choice[:2]) for choice in choices} == {frozenset({1, 4})}
    ends = Counter(tuple(choice[2:]) for choice in choices)
    assert_law(ends, dict.fromkeys(permutations([0, 2, 3]), 1 / 6), SEEDS)


@pytest.mark.parametrize("name", SELECTORS)
def test_ties_are_settled_by_the_seed_and_each_order_is_as_likely(name):
    scores = torch.full((3,), 0.7)

    counts = Counter(tuple(SELECTORS[name](scores, 3, seed).tolist()) for seed in range(SEEDS))

    assert_law(counts, dict.fromkeys(permutations(range(3)), 1 / 6), SEEDS)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 10**6))
def test_top_k_is_the_sorted_beginning_whatever_the_order_of_the_rows(count, k, seed):
    scores = distinct(count, seed)
    order = torch.randperm(count, generator=generator(seed + 1))

    chosen = top_k(scores, k, seed)

    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(range(count), key=lambda row: -scores[row].item())[:k]
    assert torch.equal(order[top_k(scores[order], k, seed)], chosen)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_seed_fixes_the_choice_and_k_only_cuts_it(name):
    scores = torch.rand(50, generator=generator(3))
    every = SELECTORS[name](scores, 50, 5)

    assert sorted(every.tolist()) == list(range(50))
    assert torch.equal(SELECTORS[name](scores, 7, 5), every[:7])
    assert torch.equal(SELECTORS[name](scores, 1000, 5), every)
    if name != "top_k":
        assert not torch.equal(SELECTORS[name](scores, 50, 6), every)


@pytest.mark.parametrize("name", ["top_k", "power", "softmax"])
def test_to_exclude_a_row_changes_nothing_else(name):
    scores = torch.rand(30, generator=generator(4))
    every = SELECTORS[name](scores, 30, 1).tolist()
    out = [every[0], every[3], every[3], every[20]]

    chosen = SELECTORS[name](scores, 30, 1, limits=Limits(exclude=torch.tensor(out))).tolist()

    assert chosen == [row for row in every if row not in out]
    assert SELECTORS[name](scores, 30, 1, limits=Limits(exclude=out)).tolist() == chosen


def test_softrank_ranks_the_rows_that_are_left():
    # with the two best away, rows 0 and 1 have ranks 1 and 2
    scores = torch.tensor([0.2, 0.1, 0.9, 0.8])

    counts = Counter(int(softrank(scores, 1, seed, limits=Limits(exclude=[2, 3]))[0]) for seed in range(SEEDS))

    assert_law(counts, {0: 2 / 3, 1: 1 / 3}, SEEDS)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_unless_excluded(name, value):
    scores = torch.tensor([0.1, value, 0.3])

    with pytest.raises(InvalidInput, match="NaN or infinity"):
        SELECTORS[name](scores, 1, 0)
    assert sorted(SELECTORS[name](scores, 3, 0, limits=Limits(exclude=[1])).tolist()) == [0, 2]


@pytest.mark.parametrize("name", SELECTORS)
def test_costs_make_scores_per_cost(name):
    scores = torch.rand(20, dtype=torch.float64, generator=generator(5))
    costs = torch.rand(20, dtype=torch.float64, generator=generator(6)) * 9 + 1

    for seed in range(5):
        chosen = SELECTORS[name](scores, 8, seed, limits=Limits(costs=costs))
        assert torch.equal(chosen, SELECTORS[name](scores / costs, 8, seed))
    assert not torch.equal(top_k(scores, 8, 0), top_k(scores, 8, 0, Limits(costs=costs)))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=8),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)),
    st.integers(1, 9),
    st.integers(0, 10**6),
)
def test_quotas_keep_the_best_choice_there_is(groups, quotas, k, seed):
    scores = distinct(len(groups), seed)
    allowed = [
        rows
        for size in range(min(k, len(groups)) + 1)
        for rows in combinations(range(len(groups)), size)
        if all([groups[row] for row in rows].count(group) <= most for group, most in quotas.items())
    ]
    best = max(allowed, key=lambda rows: sum(scores[row].item() for row in rows))

    chosen = top_k(scores, k, seed, Limits(groups=groups, quotas=quotas)).tolist()

    assert chosen == sorted(best, key=lambda row: -scores[row].item())


@pytest.mark.parametrize("name", SELECTORS)
def test_quotas_walk_down_the_order_of_the_selector(name):
    scores, groups = torch.rand(12, generator=generator(8)), torch.arange(12) % 3
    every = SELECTORS[name](scores, 12, 2).tolist()
    expected = [row for row in every if row % 3 == 2][:1] + [row for row in every if row % 3 == 1]

    chosen = SELECTORS[name](scores, 12, 2, limits=Limits(groups=groups, quotas={0: 0, 2: 1})).tolist()

    assert sorted(chosen) == sorted(expected)
    assert chosen == [row for row in every if row in expected]


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(exclude=[4]), "not among the 4 rows"),
        (Limits(exclude=[-1]), "not among the 4 rows"),
        (Limits(exclude=SCORES > 0.2), "torch.bool; their indices"),
        (Limits(exclude=[0.5]), "their indices"),
        (Limits(costs=torch.ones(3)), r"shape \[3\]; \[4\] is wanted"),
        (Limits(costs=torch.tensor([1.0, 0, 1, 1])), "a cost"),
        (Limits(costs=torch.tensor([1.0, math.inf, 1, 1])), "a cost"),
        (Limits(costs=torch.tensor([1.0, math.nan, 1, 1])), "a cost"),
        (Limits(groups=[0, 0, 1, 1]), "not both"),
        (Limits(quotas={0: 1}), "not both"),
        (Limits(groups=[0, 0, 1], quotas={0: 1}), "3 groups"),
        (Limits(groups=[0, 0, 1, 1], quotas={0: -1}), "at least 0"),
    ],
)
def test_limits_that_are_refused(name, limits, message):
    with pytest.raises(InvalidInput, match=message):
        SELECTORS[name](SCORES, 2, 0, limits=limits)


@pytest.mark.parametrize("name", SELECTORS)
def test_calls_that_are_refused(name):
    with pytest.raises(InvalidInput, match="k is 0"):
        SELECTORS[name](SCORES, 0, 0)
    with pytest.raises(InvalidInput, match=r"shape \[4, 1\]; \[B\] is wanted"):
        SELECTORS[name](SCORES[:, None], 1, 0)
    with pytest.raises(InvalidInput, match="seed"):
        SELECTORS[name](SCORES, 1, -1)
    with pytest.raises(InvalidInput, match="score per cost needs scores of at least 0"):
        SELECTORS[name](-SCORES, 1, 0, limits=Limits(costs=torch.ones(4)))
    if name != "top_k":
        for beta in (-1.0, math.inf, math.nan):
            with pytest.raises(InvalidInput, match="beta is"):
                SELECTORS[name](SCORES, 1, 0, beta)


def test_power_refuses_negative_scores_and_counts_none_that_is_excluded():
    with pytest.raises(InvalidInput, match="power needs scores of at least 0"):
        power(torch.tensor([0.5, -0.5]), 1, 0)
    assert power(torch.tensor([0.5, -0.5]), 2, 0, limits=Limits(exclude=[1])).tolist() == [0]


@pytest.mark.parametrize("name", SELECTORS)
def test_nothing_left_is_no_choice(name):
    assert SELECTORS[name](SCORES[:0], 3, 0).tolist() == []
    assert SELECTORS[name](SCORES, 3, 0, limits=Limits(exclude=range(4))).tolist() == []
    assert SELECTORS[name](SCORES[:1], 3, 0).tolist() == [0]


def farthest_first(rows, labelled, picks):
    """Greedy on the whole matrix of distances, in plain floats; `picks` are those made."""
    centres = [*labelled, *(rows[pick] for pick in picks)]
    left = [row for row in range(len(rows)) if row not in picks]
    return max(left, key=lambda row: min(math.dist(rows[row], centre) for centre in centres))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 4), st.integers(1, 5), st.integers(1, 14), st.integers(0, 10**6))
def test_k_centre_is_farthest_first(count, labels, width, k, seed):
    _, rows = pool(count, width, seed)
    labelled = torch.randn(labels, width, dtype=torch.float64, generator=generator(seed + 2))

    chosen = k_centre(rows, labelled, k, seed).tolist()

    expected = [] if labels else chosen[:1]
    while len(expected) < min(k, count):
        expected.append(farthest_first(rows.tolist(), labelled.tolist(), expected))
    assert chosen == expected


def radius(rows, centres):
    return torch.cdist(rows, rows[list(centres)]).amin(1).max().item()


@pytest.mark.parametrize("seed", range(5))
def test_k_centre_leaves_at_most_twice_the_smallest_radius(seed):
    _, rows = pool(9, 2, seed)

    chosen = k_centre(rows, None, 3, seed).tolist()

    assert radius(rows, chosen) <= 2 * min(radius(rows, centres) for centres in combinations(range(9), 3)) + 1e-12


def test_k_centre_without_labels_draws_its_first_pick():
    _, rows = pool(3, 2, 0)

    counts = Counter(int(k_centre(rows, None, 1, seed)[0]) for seed in range(SEEDS))

    assert_law(counts, dict.fromkeys(range(3), 1 / 3), SEEDS)


def test_k_centre_leaves_copies_to_the_end_in_random_order_and_follows_no_order_of_rows():
    rows = torch.tensor([[0.0], [5.0], [5.0], [2.0], [0.0]])
    labelled = torch.tensor([[0.0]])

    choices = {tuple(k_centre(rows, labelled, 5, seed).tolist()) for seed in range(100)}

    assert {choice[0] for choice in choices} == {1, 2}
    assert {choice[1] for choice in choices} == {3}
    assert {choice[2] for choice in choices} == {0, 4, 1, 2}
    _, apart = pool(20, 3, 1)
    order = torch.randperm(20, generator=generator(0))
    assert torch.equal(
        order[k_centre(apart[order], labelled.expand(1, 3), 9, 0)], k_centre(apart, labelled.expand(1, 3), 9, 0)
    )


def test_k_centre_keeps_small_distances_far_from_the_origin():
    # ‖x‖² + ‖y‖² − 2 x·y loses all digits of these
    rows = 1e9 + torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)

    assert k_centre(rows, rows[:1], 3, 0).tolist() == [3, 2, 1]


def gradients(probs, rows):
    """The outer products themselves, [B, C · D]."""
    guesses = torch.nn.functional.one_hot(probs.argmax(1), probs.shape[1])
    return ((probs - guesses)[:, :, None] * rows[:, None, :]).flatten(1)


@pytest.mark.parametrize("pick", [0, 3])
def test_badge_distances_are_those_of_the_outer_products(pick):
    probs, rows = pool(12, 5, 3)
    probs[7], rows[7] = probs[pick], rows[pick]
    factors = probs - torch.nn.functional.one_hot(probs.argmax(1), 4)
    formed = gradients(probs, rows)

    squares = select._to_gradient(factors, rows, pick)

    assert torch.allclose(squares, (formed - formed[pick]).square().sum(1), rtol=1e-12, atol=1e-13)
    assert squares[pick] == squares[7] == 0


# gradients on a line: 10 is the largest; then 0 and 1 are far and 9 is near; after 0 or 1 the other two are as near
LINE = torch.tensor([[0.6, 0.4]] * 4, dtype=torch.float64), torch.tensor([[1.0], [10], [9], [0]], dtype=torch.float64)


@pytest.mark.parametrize(("probs", "rows"), [pool(5, 3, 6), LINE])
def test_badge_begins_with_the_largest_gradient_and_draws_by_squared_distance(probs, rows):
    formed = gradients(probs, rows)
    squares = torch.cdist(formed, formed).square()
    first = int(formed.square().sum(1).argmax())
    law = Counter()
    for second, third in permutations([row for row in range(len(rows)) if row != first], 2):
        nearest = torch.minimum(squares[first], squares[second])
        p = (squares[first, second] / squares[first].sum() * nearest[third] / nearest.sum()).item()
        law += Counter({(first, second, third): p, ("second", second): p, ("third", third): p})

    counts = Counter()
    for seed in range(SEEDS):
        _, second, third = choice = tuple(badge(probs, rows, 3, seed).tolist())
        counts.update([choice, ("second", second), ("third", third)])

    assert sum(law.values()) == pytest.approx(3)
    assert_law(counts, law, SEEDS)


def test_badge_leaves_copies_and_certain_rows_to_the_end():
    probs, rows = pool(3, 4, 9)
    # three rows, their copies, and three that the network is certain of: one zero gradient
    probs = torch.cat([probs, probs, torch.eye(4, dtype=torch.float64)[:3]])
    rows = torch.cat([rows, rows, torch.randn(3, 4, dtype=torch.float64, generator=generator(1))])

    choices = [badge(probs, rows, 9, seed).tolist() for seed in range(50)]

    for choice in choices:
        assert sorted(choice) == list(range(9))
        assert sorted(min(row % 3, 3) if row < 6 else 3 for row in choice[:4]) == [0, 1, 2, 3]
    assert len({tuple(choice[4:]) for choice in choices}) > 40


def test_badge_on_zero_gradients_alone_is_a_random_order():
    probs = torch.tensor([[1.0, 0.0]]).expand(3, 2)

    counts = Counter(tuple(badge(probs, torch.ones(3, 2), 3, seed).tolist()) for seed in range(SEEDS))

    assert_law(counts, dict.fromkeys(permutations(range(3)), 1 / 6), SEEDS)


def test_badge_takes_one_column_for_the_second_of_two_classes():
    column = torch.rand(8, 1, dtype=torch.float64, generator=generator(2))
    _, rows = pool(8, 3, 2)

    assert torch.equal(badge(column, rows, 8, 1), badge(torch.cat([1 - column, column], dim=1), rows, 8, 1))


SPREAD = {
    "k_centre": lambda probs, rows, k, seed, exclude=(): k_centre(rows, None, k, seed, exclude),
    "k_centre from labels": lambda probs, rows, k, seed, exclude=(): k_centre(rows, -rows[:3], k, seed, exclude),
    "badge": badge,
}


@pytest.mark.parametrize("name", SPREAD)
def test_diverse_choices_are_fixed_by_their_seed_cut_by_k_and_never_excluded(name):
    probs, rows = pool(30, 4, 0)
    every = SPREAD[name](probs, rows, 30, 1)

    assert sorted(every.tolist()) == list(range(30))
    assert torch.equal(SPREAD[name](probs, rows, 8, 1), every[:8])
    assert torch.equal(SPREAD[name](probs, rows, 99, 1), every)
    assert torch.equal(SPREAD[name](probs.float(), rows.float(), 30, 1).sort().values, torch.arange(30))
    if name != "k_centre from labels":
        assert not torch.equal(SPREAD[name](probs, rows, 30, 2), every)
    out = every[:5].tolist()
    assert sorted([*SPREAD[name](probs, rows, 30, 1, out).tolist(), *out]) == list(range(30))


@pytest.mark.parametrize("name", SPREAD)
def test_chunks_change_nothing(name, monkeypatch):
    probs, rows = pool(17, 3, 2)
    whole = SPREAD[name](probs, rows, 10, 3)

    monkeypatch.setattr(select, "_CHUNK_ELEMENTS", 12)

    assert torch.equal(SPREAD[name](probs, rows, 10, 3), whole)


@pytest.mark.parametrize("name", SPREAD)
def test_diverse_choices_of_nothing_and_of_broken_rows(name):
    probs, rows = pool(6, 3, 4)

    assert SPREAD[name](probs[:0], rows[:0], 3, 0).tolist() == []
    assert SPREAD[name](probs[:1], rows[:1], 3, 0).tolist() == [0]
    assert SPREAD[name](probs, rows, 3, 0, range(6)).tolist() == []
    broken = rows.clone()
    broken[5, 1] = math.nan
    with pytest.raises(InvalidInput, match="embeddings have NaN"):
        SPREAD[name](probs, broken, 3, 0)
    assert sorted(SPREAD[name](probs, broken, 9, 0, [5]).tolist()) == [0, 1, 2, 3, 4]


ONES = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_centre(ONES[0], None, 1, 0), r"shape \[2\]; \[B, D\]"),
        (lambda: k_centre(ONES, torch.ones(1, 3), 1, 0), r"shape \[1, 3\]; \[L, 2\]"),
        (lambda: k_centre(ONES, torch.full((1, 2), math.nan), 1, 0), "labelled rows have NaN"),
        (lambda: k_centre(ONES, None, 0, 0), "k is 0"),
        (lambda: k_centre(ONES, None, 1, 0, [4]), "not among the 4 rows"),
        (lambda: badge(torch.ones(4), ONES, 1, 0), r"shape \[4\]; \[4, C\]"),
        (lambda: badge(torch.ones(3, 2), ONES, 1, 0), r"shape \[3, 2\]; \[4, C\]"),
        (lambda: badge(torch.ones(4, 0), ONES, 1, 0), r"shape \[4, 0\]; \[4, C\]"),
        (lambda: badge(torch.full((4, 2), math.nan), ONES, 1, 0), "probabilities have NaN"),
        (lambda: badge(torch.full((4, 2), 1.5), ONES, 1, 0), "not logits"),
        (lambda: badge(ONES / 2, ONES, 0, 0), "k is 0"),
    ],
)
def test_diverse_choices_that_are_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
