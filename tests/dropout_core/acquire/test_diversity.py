import math
from collections import Counter
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropout_core.acquire import select
from dropout_core.acquire.constraints import Constraints
from dropout_core.acquire.select import badge, k_centre
from dropout_core.errors import InvalidInput
from tests.dropout_core.acquire.test_select import assert_law

SEEDS = 600


def generator(seed):
    return torch.Generator().manual_seed(seed)


def pool(count, width, seed, classes=4):
    probs = (2 * torch.randn(count, classes, dtype=torch.float64, generator=generator(seed))).softmax(-1)
    return probs, torch.randn(count, width, dtype=torch.float64, generator=generator(seed + 1))


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
    "k_centre": lambda probs, rows, *rest: k_centre(rows, None, *rest),
    "k_centre from labels": lambda probs, rows, *rest: k_centre(rows, -rows[:3], *rest),
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
    assert sorted([*SPREAD[name](probs, rows, 30, 1, Constraints(exclude=out)).tolist(), *out]) == list(range(30))


@pytest.mark.parametrize("name", SPREAD)
def test_diverse_choices_keep_to_quotas(name):
    probs, rows = pool(12, 4, 1)
    groups = [number % 3 for number in range(12)]

    chosen = SPREAD[name](probs, rows, 7, 1, Constraints(groups=groups, quotas={0: 2, 1: 0})).tolist()

    # a full group is as good as excluded: group 1 from the beginning, group 0 after its second row
    assert len(chosen) == len(set(chosen)) == 6
    assert sorted(row % 3 for row in chosen) == [0, 0, 2, 2, 2, 2]
    free = SPREAD[name](probs, rows, 12, 1, Constraints(exclude=range(1, 12, 3))).tolist()
    third = [place for place, row in enumerate(free) if row % 3 == 0][2]
    assert chosen[:third] == free[:third]


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
    assert SPREAD[name](probs, rows, 3, 0, Constraints(exclude=range(6))).tolist() == []
    broken = rows.clone()
    broken[5, 1] = math.nan
    with pytest.raises(InvalidInput, match="embeddings have NaN"):
        SPREAD[name](probs, broken, 3, 0)
    assert sorted(SPREAD[name](probs, broken, 9, 0, Constraints(exclude=[5])).tolist()) == [0, 1, 2, 3, 4]


ONES = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_centre(ONES[0], None, 1, 0), r"shape \[2\]; \[B, D\]"),
        (lambda: k_centre(ONES, torch.ones(1, 3), 1, 0), r"shape \[1, 3\]; \[L, 2\]"),
        (lambda: k_centre(ONES, torch.full((1, 2), math.nan), 1, 0), "labelled rows have NaN"),
        (lambda: k_centre(ONES, None, 0, 0), "k is 0"),
        (lambda: k_centre(ONES, None, 1, 0, Constraints(exclude=[4])), "not among the 4 rows"),
        (lambda: k_centre(ONES, None, 1, 0, Constraints(costs=torch.ones(4))), "leave the costs out"),
        (lambda: badge(ONES / 2, ONES, 1, 0, Constraints(costs=torch.ones(4))), "leave the costs out"),
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
