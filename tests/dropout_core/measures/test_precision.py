import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropout_core.engine.engine import Chunk
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.estimate.fold import Fold
from dropout_core.measures.measures import OUTPUT_KINDS
from dropout_core.measures.moments import concatenate
from dropout_core.measures.precision import mutual_information_error, passes_used, precise, standard_error
from dropout_core.measures.tolerance import checked_tolerance
from dropout_core.noise.balanced import balanced_words
from dropout_core.noise.limits import BLOCK
from dropout_core.noise.philox import normal_of
from tests.support import references

STUDENT = {1: 12.7062, 2: 4.3027, 7: 2.3646, 10: 2.2281, 11: 2.2010, 15: 2.1314, 31: 2.0395, 99: 1.9842, 1999: 1.9612}


def folded(outputs, output="mean", balanced=False, cuts=(), branches=1, **options):
    """Fold [T, B, C], cut after the given passes."""
    fold = Fold(
        OUTPUT_KINDS[output],
        options=PassOptions(sampling="balanced" if balanced else "iid", branches=branches),
        **options,
    )
    for start, stop in zip((0, *cuts), (*cuts, len(outputs)), strict=True):
        fold.add(Chunk(0, outputs[start:stop]))
    return fold.statistics()


def draws(passes, rows=3, columns=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(passes, rows, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("passes", [n + 1 for n in STUDENT])
def test_of_independent_passes_it_is_student_s_over_the_root_of_their_number(passes):
    outputs = draws(passes)
    wanted = outputs.std(0) / math.sqrt(passes) * STUDENT[passes - 1] / 1.959964
    torch.testing.assert_close(standard_error(folded(outputs)), wanted, rtol=2e-4, atol=0)


@pytest.mark.parametrize("passes", [64, 70])
def test_of_balanced_passes_it_is_between_the_means_of_whole_blocks(passes):
    """Block means that agree: their error, and not that of sixty-four passes."""
    outputs = draws(passes)
    outputs[:64] -= outputs[:64].unflatten(0, (4, 16)).mean(1).repeat_interleave(16, 0) * 0.9
    means = outputs[:64].unflatten(0, (4, 16)).mean(1)
    wanted = means.std(0) / 2 * 3.182446 / 1.959964
    torch.testing.assert_close(standard_error(folded(outputs, balanced=True)), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("passes", [2, 16, 31, 64])
def test_of_balanced_passes_it_is_never_above_its_bound(passes):
    """16/15 of the independent variance: where blocks are few, or differ more by chance."""
    outputs = draws(passes)
    outputs += torch.arange(passes, dtype=torch.float64)[:, None, None] // 16 * 10  # blocks that differ much
    bound = standard_error(folded(outputs)) * math.sqrt(16 / 15)
    torch.testing.assert_close(standard_error(folded(outputs, balanced=True)), bound, rtol=1e-12, atol=0)


@given(st.lists(st.integers(1, 79), max_size=6, unique=True))
def test_it_does_not_depend_on_how_the_passes_came(cuts):
    outputs = draws(80, columns=4)
    whole, parts = (folded(outputs, "logits", True, c) for c in ((), sorted(cuts)))
    for error in (standard_error, mutual_information_error):
        torch.testing.assert_close(error(parts), error(whole), rtol=1e-9, atol=0)


def test_of_mutual_information_it_is_between_its_values_in_each_block():
    outputs = draws(70, rows=2, columns=3)
    probabilities = outputs.softmax(-1).tolist()
    by_block = [
        references.classification(probabilities[first : first + BLOCK])["mutual_information"]
        for first in (0, 16, 32, 48)
    ]
    wanted = torch.tensor(by_block, dtype=torch.float64).std(0) / 2 * 3.182446 / 1.959964
    for balanced in (False, True):
        found = mutual_information_error(folded(outputs, "logits", balanced))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


def test_an_interval_of_1_96_covers_95_percent():
    """Of independent normal draws, any number of them, exactly; here in 4000 columns, 5 standard errors."""
    columns = 4000
    for passes in (2, 5, 30):
        outputs = draws(passes, rows=1, columns=columns, seed=passes)
        covered = outputs.mean(0).abs() <= 1.959964 * standard_error(folded(outputs))
        share = float(covered.double().mean())
        assert abs(share - 0.95) <= 5 * math.sqrt(0.95 * 0.05 / columns)


@pytest.mark.parametrize("blocks", [2, 4, 16])
def test_balanced_intervals_cover_95_percent_too(blocks):
    """Of a product of two normal draws: half of it balance does not see. Never less than 95 %, within 5 errors."""
    columns = 3000
    words = [balanced_words(4, site, range(BLOCK * blocks), (columns,)) for site in (0, 1)]
    first, second = (normal_of(word) for word in words)
    outputs = (first + first * second).unsqueeze(1)
    covered = outputs.mean(0).abs() <= 1.959964 * standard_error(folded(outputs, balanced=True))
    assert float(covered.double().mean()) >= 0.95 - 5 * math.sqrt(0.95 * 0.05 / columns)


@pytest.mark.parametrize("balanced", [False, True])
def test_of_passes_that_branch_it_is_between_the_means_of_sixteen_trunks(balanced):
    """Four passes of each trunk alike: the formula for independent passes would say half of it, and no bound holds."""
    outputs = draws(48).repeat_interleave(4, 0)
    means = outputs.unflatten(0, (3, 64)).mean(1)
    wanted = means.std(0) / math.sqrt(3) * 4.302653 / 1.959964
    found = standard_error(folded(outputs, "mean", balanced, branches=4, cuts=(32, 48, 100)))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    with pytest.raises(InvalidInput, match="from 32 trunks on"):
        standard_error(folded(outputs[:127], branches=4))


def test_one_pass_has_no_standard_error():
    with pytest.raises(InvalidInput, match="one pass has no standard error"):
        standard_error(folded(draws(1)))


@pytest.mark.parametrize(("output", "passes"), [("logits", 31), ("mean", 64)])
def test_mutual_information_needs_two_blocks_and_classes(output, passes):
    with pytest.raises(InvalidInput, match="from 32 trunks on"):
        mutual_information_error(folded(draws(passes), output))


def test_rows_are_precise_when_every_column_of_every_measure_is():
    outputs = torch.cat([draws(64, 1, 2) * scale for scale in (1e-3, 1.0, 0.0)], dim=1)
    outputs[:, 2, 1] = draws(64, 1, 1)[:, 0, 0]
    statistics = folded(outputs)
    assert precise(statistics, {"mean": 0.01}).tolist() == [True, False, False]
    assert precise(statistics, {"mean": 10.0}).all()


def test_a_row_is_precise_when_its_mutual_information_is():
    outputs = torch.cat([draws(64, 1, 3) * 0.01, draws(64, 1, 3) * 5], dim=1)
    assert precise(folded(outputs, "logits"), {"mutual_information": 1e-3}).tolist() == [True, False]


def test_rows_with_few_blocks_leave_the_others_their_own_error():
    """A row that stopped after one block has the bound; the others what is between their blocks."""
    outputs = draws(64, 2, seed=1)
    outputs -= outputs.unflatten(0, (4, 16)).mean(1).repeat_interleave(16, 0) * 0.9
    few, many = folded(draws(16, 2), balanced=True), folded(outputs, balanced=True)
    joined = standard_error(concatenate([few, many]))
    torch.testing.assert_close(joined, torch.cat([standard_error(few), standard_error(many)]), rtol=1e-12, atol=0)
    assert (standard_error(many) < standard_error(folded(outputs))).all()


def test_a_row_of_nan_is_never_precise():
    outputs = draws(64)
    outputs[3, 1] = torch.nan
    assert precise(folded(outputs), {"mean": 1e9}).tolist() == [True, False, True]


def test_rows_leave_when_they_are_precise_and_return_to_their_places():
    """Rows of spread 0.1, 10 and 1: the first leaves first; what is kept of each is what it had by then."""
    outputs = torch.cat([draws(160, 1, 2, seed=n) * scale for n, scale in enumerate((0.1, 10.0, 1.0))], dim=1)
    fold, rows, left = (
        Fold(OUTPUT_KINDS["mean"], options=PassOptions(1024, tolerance={"mean": 0.15}, min_passes=32, sampling="iid")),
        torch.arange(3),
        {},
    )
    for start in range(0, 160, 16):
        keep = fold.wanted(0)
        if keep is not None:
            left.update(dict.fromkeys(rows[~keep].tolist(), start))
            rows = rows[keep]
        fold.add(Chunk(0, outputs[start : start + 16, rows]))
    found = fold.statistics()
    assert left[0] == 32 < left[2] < 160
    assert 1 not in left
    assert passes_used(found).tolist() == [32, 160, left[2]]
    for row, passes in enumerate(passes_used(found).tolist()):
        torch.testing.assert_close(found["value"].mean[row], outputs[:passes, row].mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            found["value"].variance[row], outputs[:passes, row].var(0, correction=0), rtol=1e-10, atol=0
        )
        alone = standard_error(folded(outputs[:passes, row : row + 1]))
        torch.testing.assert_close(standard_error(found)[row], alone[0], rtol=1e-9, atol=0)
        assert (passes == 160) or (alone <= 0.15).all()


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.inf, math.nan, {"variance": 0.1}, {}], ids=str)
def test_a_tolerance_that_cannot_be_is_refused(tolerance):
    with pytest.raises(InvalidInput, match="tolerance"):
        checked_tolerance(tolerance)
