import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropout_core.acquire import pointwise
from dropout_core.engine.engine import Chunk
from dropout_core.errors import InvalidInput
from dropout_core.estimate.estimate import fold_passes

CLASSIFICATION = {
    name: getattr(pointwise, name)
    for name in (
        "predictive_entropy",
        "expected_entropy",
        "mutual_information",
        "least_confidence",
        "margin",
        "vote_variation_ratio",
        "mean_std",
    )
}
LOG2 = math.log(2)
# rows: certain; torn in each pass; each pass certain of another class; the passes agree on 3 to 1
ROWS = torch.tensor(
    [[[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [0.75, 0.25]], [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.75, 0.25]]],
    dtype=torch.float64,
)
H3 = 2 * LOG2 - 0.75 * math.log(3)
EXACT = {
    "predictive_entropy": [0, LOG2, LOG2, H3],
    "expected_entropy": [0, LOG2, 0, H3],
    "mutual_information": [0, 0, LOG2, 0],
    "least_confidence": [0, 0.5, 0.5, 0.25],
    "margin": [-1, 0, 0, -0.5],
    "vote_variation_ratio": [0, 0, 0.5, 0],
    "mean_std": [0, 0, 0.5, 0],
}


def random_probs(*shape, seed=0):
    logits = 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(-1)


def entropy(p):
    return -sum(q * math.log(q) for q in p if q > 0)


def slowly(name, passes):
    """One row's score in plain floats: passes, a list of lists of class probabilities."""
    count, classes = len(passes), range(len(passes[0]))
    mean = [math.fsum(p[c] for p in passes) / count for c in classes]
    first, second = sorted(mean, reverse=True)[:2]
    votes = [p.index(max(p)) for p in passes]
    expected = math.fsum(entropy(p) for p in passes) / count
    deviations = [math.sqrt(math.fsum((p[c] - mean[c]) ** 2 for p in passes) / count) for c in classes]
    return {
        "predictive_entropy": entropy(mean),
        "expected_entropy": expected,
        "mutual_information": entropy(mean) - expected,
        "least_confidence": 1 - first,
        "margin": second - first,
        "vote_variation_ratio": 1 - max(votes.count(c) for c in classes) / count,
        "mean_std": sum(deviations) / len(mean),
    }[name]


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_exact_values_with_probabilities_of_0_and_1(name):
    scores = CLASSIFICATION[name](ROWS)

    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(EXACT[name], abs=1e-15)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("shape", [(1, 3, 2), (7, 5, 4), (2, 1, 10)])
def test_scores_are_their_formulas(name, shape):
    probs = random_probs(*shape)

    expected = [slowly(name, probs[:, row].tolist()) for row in range(shape[1])]

    assert CLASSIFICATION[name](probs).tolist() == pytest.approx(expected, abs=1e-14)


def test_a_certain_split_between_passes_has_all_the_predictive_entropy_there_is():
    # T/C · E H[p], which one library calls the entropy of the mean, is 0 here
    split = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])

    assert pointwise.predictive_entropy(split).item() == pytest.approx(LOG2, abs=1e-15)
    assert pointwise.expected_entropy(split).item() == 0
    assert pointwise.mutual_information(split).item() == pytest.approx(LOG2, abs=1e-15)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 4), st.integers(2, 5), st.integers(0, 10**6))
def test_identities(passes, rows, classes, seed):
    probs = random_probs(passes, rows, classes, seed=seed)
    total, expected = pointwise.predictive_entropy(probs), pointwise.expected_entropy(probs)
    shared = pointwise.mutual_information(probs)

    assert torch.allclose(total, expected + shared, rtol=0, atol=1e-14)
    assert (shared >= 0).all()
    assert (shared <= math.log(min(passes, classes)) + 1e-14).all()
    assert (total <= math.log(classes) + 1e-14).all()
    assert (pointwise.least_confidence(probs) <= 1 - 1 / classes + 1e-14).all()
    assert ((pointwise.margin(probs) <= 0) & (pointwise.margin(probs) >= -1)).all()


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_engines_own_measures_agree(name):
    probs = random_probs(5, 6, 3)
    estimate = fold_passes([Chunk(0, probs)], "probabilities", 6, 0, "captured")
    measure = {"margin": lambda: -estimate.margin, "mean_std": lambda: estimate.std.mean(-1)}

    assert torch.equal(CLASSIFICATION[name](probs), measure.get(name, lambda: estimate.measure(name))())


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_passes_that_agree_have_no_epistemic_part(name):
    probs = random_probs(1, 8, 3).expand(6, 8, 3)

    scores = CLASSIFICATION[name](probs)

    if name in {"mutual_information", "vote_variation_ratio", "mean_std"}:
        assert scores.abs().max() < 1e-15
    else:
        assert scores.abs().min() > 1e-3
        assert torch.allclose(scores, CLASSIFICATION[name](probs[:1]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_are_summed_in_float64(name, dtype):
    probs = random_probs(30, 4, 10).to(dtype)

    scores = CLASSIFICATION[name](probs)

    assert scores.dtype == torch.float64
    assert torch.equal(scores, CLASSIFICATION[name](probs.double()))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_one_column_is_the_second_of_two_classes(name):
    column = torch.rand(4, 5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    assert torch.equal(CLASSIFICATION[name](column), CLASSIFICATION[name](torch.cat([1 - column, column], dim=-1)))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_positions_are_rows_of_their_own(name):
    probs = random_probs(4, 3, 2, 5, 6)

    scores = CLASSIFICATION[name](probs)

    assert scores.shape == (3, 2, 5)
    assert torch.equal(scores, CLASSIFICATION[name](probs.flatten(1, 3)).reshape(3, 2, 5))


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_no_rows_and_other_rows_and_nan(name):
    probs = random_probs(3, 6, 4)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    broken = probs.clone()
    broken[1, 2] = math.nan

    assert CLASSIFICATION[name](probs[:, :0]).shape == (0,)
    assert torch.equal(CLASSIFICATION[name](probs)[order], CLASSIFICATION[name](probs[:, order]))
    assert CLASSIFICATION[name](broken).isnan().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_callers_array_is_left_alone(name):
    probs = ROWS.clone()

    CLASSIFICATION[name](probs)

    assert torch.equal(probs, ROWS)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (torch.ones(2, 3), r"shape \[2, 3\].*\[T, B, …, C\]"),
        (torch.ones(0, 2, 3), r"shape \[0, 2, 3\].*at least one pass"),
        (torch.ones(2, 2, 0), r"shape \[2, 2, 0\]"),
        (torch.tensor([[[2.0, -1.0]]]), "not logits"),
        (torch.tensor([[[0.9, 0.9]]]), "sum to 1"),
        (torch.tensor([[[0.2, 0.2]]]), "sum to 1"),
    ],
)
def test_what_is_no_probabilities_is_refused(name, probs, message):
    with pytest.raises(InvalidInput, match=message):
        CLASSIFICATION[name](probs)
