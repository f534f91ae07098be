import math
from collections import Counter
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropout_core.acquire.constraints import Constraints
from dropout_core.acquire.select import power, softmax, softrank, top_k
from dropout_core.errors import InvalidInput

SEEDS = 600
SELECTORS = {"top_k": top_k, "power": power, "softmax": softmax, "softrank": softrank}
SCORES = torch.tensor([0.3, 0.1, 0.4, 0.2], dtype=torch.float64)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def distinct(count, seed):
    """Distinct scores 1/count … 1 in a random order."""
    return (torch.randperm(count, generator=generator(seed)) + 1).double() / count


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

    chosen = SELECTORS[name](scores, 30, 1, limits=Constraints(exclude=torch.tensor(out))).tolist()

    assert chosen == [row for row in every if row not in out]
    assert SELECTORS[name](scores, 30, 1, limits=Constraints(exclude=out)).tolist() == chosen


def test_softrank_ranks_the_rows_that_are_left():
    # with the two best away, rows 0 and 1 have ranks 1 and 2
    scores = torch.tensor([0.2, 0.1, 0.9, 0.8])

    counts = Counter(int(softrank(scores, 1, seed, limits=Constraints(exclude=[2, 3]))[0]) for seed in range(SEEDS))

    assert_law(counts, {0: 2 / 3, 1: 1 / 3}, SEEDS)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_unless_excluded(name, value):
    scores = torch.tensor([0.1, value, 0.3])

    with pytest.raises(InvalidInput, match="NaN or infinity"):
        SELECTORS[name](scores, 1, 0)
    assert sorted(SELECTORS[name](scores, 3, 0, limits=Constraints(exclude=[1])).tolist()) == [0, 2]


@pytest.mark.parametrize("name", SELECTORS)
def test_costs_make_scores_per_cost(name):
    scores = torch.rand(20, dtype=torch.float64, generator=generator(5))
    costs = torch.rand(20, dtype=torch.float64, generator=generator(6)) * 9 + 1

    for seed in range(5):
        chosen = SELECTORS[name](scores, 8, seed, limits=Constraints(costs=costs))
        assert torch.equal(chosen, SELECTORS[name](scores / costs, 8, seed))
    assert not torch.equal(top_k(scores, 8, 0), top_k(scores, 8, 0, Constraints(costs=costs)))


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

    chosen = top_k(scores, k, seed, Constraints(groups=groups, quotas=quotas)).tolist()

    assert chosen == sorted(best, key=lambda row: -scores[row].item())


@pytest.mark.parametrize("name", SELECTORS)
def test_quotas_walk_down_the_order_of_the_selector(name):
    scores, groups = torch.rand(12, generator=generator(8)), torch.arange(12) % 3
    every = SELECTORS[name](scores, 12, 2).tolist()
    expected = [row for row in every if row % 3 == 2][:1] + [row for row in every if row % 3 == 1]

    chosen = SELECTORS[name](scores, 12, 2, limits=Constraints(groups=groups, quotas={0: 0, 2: 1})).tolist()

    assert sorted(chosen) == sorted(expected)
    assert chosen == [row for row in every if row in expected]


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Constraints(exclude=[4]), "not among the 4 rows"),
        (Constraints(exclude=[-1]), "not among the 4 rows"),
        (Constraints(exclude=SCORES > 0.2), "torch.bool; their indices"),
        (Constraints(exclude=[0.5]), "their indices"),
        (Constraints(costs=torch.ones(3)), r"shape \[3\]; \[4\] is wanted"),
        (Constraints(costs=torch.tensor([1.0, 0, 1, 1])), "a cost"),
        (Constraints(costs=torch.tensor([1.0, math.inf, 1, 1])), "a cost"),
        (Constraints(costs=torch.tensor([1.0, math.nan, 1, 1])), "a cost"),
        (Constraints(groups=[0, 0, 1, 1]), "not both"),
        (Constraints(quotas={0: 1}), "not both"),
        (Constraints(groups=[0, 0, 1], quotas={0: 1}), "3 groups"),
        (Constraints(groups=[0, 0, 1, 1], quotas={0: -1}), "at least 0"),
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
        SELECTORS[name](-SCORES, 1, 0, limits=Constraints(costs=torch.ones(4)))
    if name != "top_k":
        for beta in (-1.0, math.inf, math.nan):
            with pytest.raises(InvalidInput, match="beta is"):
                SELECTORS[name](SCORES, 1, 0, beta)


def test_power_refuses_negative_scores_and_counts_none_that_is_excluded():
    with pytest.raises(InvalidInput, match="power needs scores of at least 0"):
        power(torch.tensor([0.5, -0.5]), 1, 0)
    assert power(torch.tensor([0.5, -0.5]), 2, 0, limits=Constraints(exclude=[1])).tolist() == [0]


@pytest.mark.parametrize("name", SELECTORS)
def test_nothing_left_is_no_choice(name):
    assert SELECTORS[name](SCORES[:0], 3, 0).tolist() == []
    assert SELECTORS[name](SCORES, 3, 0, limits=Constraints(exclude=range(4))).tolist() == []
    assert SELECTORS[name](SCORES[:1], 3, 0).tolist() == [0]
