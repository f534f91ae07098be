import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropout_core.noise.balanced import NUM_PERMUTATIONS, STREAM, balanced_words, block_words, columns, table_words
from dropout_core.noise.limits import BLOCK
from dropout_core.noise.philox import drop_threshold, words

STRATUM = 2**28
RATES = [0.0, 1 / 16, 0.1, 0.25, 0.3, 0.5, 0.77, 15 / 16, 1.0]
GOLDEN = [  # seed, site, pass, shape, first word, last word
    (0, 0, 0, (7,), 0xF89286F6, 0xFC8AC6CF),
    (0, 0, 17, (3, 6), 0x45490490, 0xBE8B8F87),
    (2**63 - 1, 5, 999, (2, 3, 9), 0x45685495, 0x26E985C4),
]


def test_a_block_has_one_draw_in_each_sixteenth():
    drawn = balanced_words(3, 1, range(48), (50,)).reshape(3, BLOCK, 50)
    assert torch.equal((drawn // STRATUM).sort(dim=1).values, torch.arange(16).reshape(1, 16, 1).expand(3, 16, 50))


def test_any_two_passes_have_any_two_sixteenths_equally_often():
    """Exact, over all permutations: that is all that a squared error depends on."""
    strata = table_words()[:, :NUM_PERMUTATIONS] // STRATUM
    assert strata.shape == (BLOCK, NUM_PERMUTATIONS)
    for one, other in permutations(range(BLOCK), 2):
        pairs = set(zip(strata[one].tolist(), strata[other].tolist(), strict=True))
        assert pairs == set(permutations(range(BLOCK), 2))


@pytest.mark.parametrize("p", RATES)
def test_a_block_drops_a_unit_as_often_as_its_rate_says(p):
    kept = balanced_words(0, 2, range(160), (400,)) >= drop_threshold(p)
    dropped = 16 - kept.reshape(10, BLOCK, 400).sum(1)
    assert set(dropped.flatten().tolist()) <= {math.floor(16 * p), math.ceil(16 * p)}


@pytest.mark.parametrize("p", RATES)
def test_each_pass_alone_drops_at_the_rate(p):
    """Units are independent: 5 standard errors of a proportion, for each of the sixteen places in a block."""
    units = 20_000
    rate = 1 - (balanced_words(1, 0, range(BLOCK), (units,)) >= drop_threshold(p)).double().mean(1)
    assert ((rate - p).abs() <= 5 * math.sqrt(p * (1 - p) / units)).all()


def test_draws_are_uniform_within_their_sixteenth():
    """Mean ½ and variance 1/12 of the place within a stratum, 5 standard errors; uncorrelated with the stratum."""
    drawn = balanced_words(2, 0, range(1), (40_000,))[0]
    place, stratum = (drawn % STRATUM).double() / STRATUM, (drawn // STRATUM).double()
    count = len(place)
    assert abs(float(place.mean()) - 0.5) <= 5 * math.sqrt(1 / 12 / count)
    assert abs(float(place.var()) - 1 / 12) <= 5 * math.sqrt((1 / 80 - 1 / 144) / count)
    assert abs(float(torch.corrcoef(torch.stack([place, stratum]))[0, 1])) <= 5 / math.sqrt(count)


def test_units_sites_and_blocks_are_independent():
    """Correlation of the first pass's draws between neighbours of any sort, 5 standard errors."""
    drawn = torch.stack([balanced_words(0, site, range(32), (3000,))[[0, 16]] for site in (0, 1)]).double()
    series = torch.stack([drawn[0, 0, :-1], drawn[0, 0, 1:], drawn[0, 1, :-1], drawn[1, 0, :-1]])
    found = torch.corrcoef(series) - torch.eye(4)
    assert (found.abs() <= 5 / math.sqrt(2999)).all()


@given(
    p=st.one_of(st.sampled_from(RATES), st.floats(0, 1)),
    seed=st.integers(0, 2**63 - 1),
    blocks=st.integers(1, 3),
)
def test_the_table_has_the_steps_of_the_words(p, seed, blocks):
    threshold = drop_threshold(p)
    column = columns(*block_words(seed, 4, range(blocks), (9,)), threshold)
    by_table = (table_words() >= threshold)[:, column.long()].movedim(1, 0)
    direct = balanced_words(seed, 4, range(16 * blocks), (9,)) >= threshold
    assert torch.equal(by_table.flatten(0, 1), direct)


@pytest.mark.parametrize("passes", [range(5, 40), range(16, 32), range(7, 9), range(33, 34), range(4, 4)], ids=str)
@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0])], ids=["shared", "of rows"])
def test_any_passes_are_a_part_of_all(passes, rows):
    whole = balanced_words(0, 0, range(64), (2, 3), rows=rows)
    assert torch.equal(balanced_words(0, 0, passes, (2, 3), rows=rows), whole[passes.start : passes.stop])


def test_rows_are_keyed_by_their_place():
    both = balanced_words(0, 0, range(20), (5,), rows=torch.tensor([3, 8]))
    for index, place in enumerate((3, 8)):
        assert torch.equal(both[:, index], balanced_words(0, 0, range(20), (5,), rows=torch.tensor([place]))[:, 0])
    assert not torch.equal(both[:, 0], both[:, 1])


def test_a_longer_sequence_contains_a_shorter_one():
    assert torch.equal(balanced_words(0, 0, range(8), (20, 8))[:, :5], balanced_words(0, 0, range(8), (5, 8)))


def test_balanced_draws_have_a_stream_of_their_own():
    """Else block 3 would be made of the words of pass 3."""
    assert not torch.equal(words(0, 0, torch.arange(3), (50,)), words(0, 0, torch.arange(3), (50,), stream=STREAM))


@pytest.mark.parametrize(("seed", "site", "number", "shape", "first", "last"), GOLDEN)
def test_golden_words_pin_the_noise(seed, site, number, shape, first, last):
    drawn = balanced_words(seed, site, range(number, number + 1), shape).flatten()
    assert (int(drawn[0]), int(drawn[-1])) == (first, last)
