import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropout_core.errors import InvalidInput
from dropout_core.measures.measures import OUTPUT_KINDS, output_kind
from dropout_core.measures.moments import moments_of
from tests.support import references

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(2, 4))


def measured(output, outputs):
    """Every measure of the outputs [T, B, columns], by name."""
    kind = output_kind(output)
    statistics = moments_of(kind.values(torch.as_tensor(outputs, dtype=torch.float64)))
    return {name: measure(statistics) for name, measure in kind.measures.items()}


def assert_measures(found, wanted):
    """Float64 arithmetic on numbers of size 1 to 100."""
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        expected = torch.tensor(wanted[name], dtype=torch.float64)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@st.composite
def arrays(draw, elements, columns=1):
    """Lists [T][B][columns · C]."""
    num_passes, num_rows, num_classes = draw(SIZES)
    row = st.lists(elements, min_size=columns * num_classes, max_size=columns * num_classes)
    return draw(st.lists(st.lists(row, min_size=num_rows, max_size=num_rows), min_size=num_passes, max_size=num_passes))


def normalised(weights):
    """Small whole numbers to probabilities, exact 0 and 1 among them."""
    return [w / sum(weights) for w in weights] if sum(weights) else [1.0, *[0.0] * (len(weights) - 1)]


PROBABILITIES = arrays(st.integers(0, 4)).map(lambda t: [[normalised(row) for row in rows] for rows in t])
FINITE = st.floats(-30, 30)


@given(PROBABILITIES)
def test_measures_of_probabilities_are_the_reference(probabilities):
    assert_measures(measured("probabilities", probabilities), references.classification(probabilities))


@given(arrays(FINITE))
def test_measures_of_logits_are_those_of_their_softmax(logits):
    probabilities = [[references.softmax(row) for row in rows] for rows in logits]
    assert_measures(measured("logits", logits), references.classification(probabilities))


@given(arrays(FINITE))
def test_one_logit_is_that_of_the_second_of_two_classes(logits):
    single = [[row[:1] for row in rows] for rows in logits]
    probabilities = [[references.softmax(row) for row in rows] for rows in single]
    assert_measures(measured("logits", single), references.classification(probabilities))


@given(PROBABILITIES)
def test_one_probability_is_that_of_the_second_of_two_classes(probabilities):
    single = [[row[:1] for row in rows] for rows in probabilities]
    both = [[[1 - p, p] for (p,) in rows] for rows in single]
    assert_measures(measured("probabilities", single), references.classification(both))


@given(arrays(FINITE))
def test_measures_of_means_are_the_reference(means):
    assert_measures(measured("mean", means), references.regression(means))


@given(arrays(st.floats(-4, 4), columns=2))
def test_means_come_first_and_log_variances_second(outputs):
    half = len(outputs[0][0]) // 2
    means = [[row[:half] for row in rows] for rows in outputs]
    variances = [[[math.exp(v) for v in row[half:]] for row in rows] for rows in outputs]
    found = measured("mean_and_log_variance", outputs)
    assert_measures(found, references.regression(means, variances))


@given(PROBABILITIES)
def test_total_entropy_is_aleatoric_plus_epistemic(probabilities):
    found, classes = measured("probabilities", probabilities), len(probabilities[0][0])
    total = found["expected_entropy"] + found["mutual_information"]
    torch.testing.assert_close(total, found["predictive_entropy"], rtol=0, atol=1e-14)
    assert (found["mutual_information"] >= 0).all()
    assert (found["predictive_entropy"] <= math.log(classes) + 1e-14).all()


@given(arrays(st.floats(-3, 3), columns=2))
def test_total_variance_is_that_of_the_mixture(outputs):
    """Var y = E (s² + m²) − (E m)² for components of mean m and variance s²."""
    mean, log_variance = torch.tensor(outputs, dtype=torch.float64).chunk(2, dim=-1)
    mixture = (log_variance.exp() + mean**2).mean(0) - mean.mean(0) ** 2
    found = measured("mean_and_log_variance", outputs)
    torch.testing.assert_close(found["variance"], mixture, rtol=0, atol=1e-12)
    parts = found["epistemic_variance"] + found["aleatoric_variance"]
    torch.testing.assert_close(found["variance"], parts, rtol=0, atol=0)


def test_certain_and_uniform_passes_have_the_extreme_entropies():
    certain, uniform = [[1.0, 0.0, 0.0]], [[1 / 3] * 3]
    for one, entropy in ((certain, 0.0), (uniform, math.log(3))):
        found = measured("probabilities", [one] * 4)
        assert float(found["predictive_entropy"]) == pytest.approx(entropy, abs=1e-15)
        assert float(found["expected_entropy"]) == pytest.approx(entropy, abs=1e-15)
        assert float(found["mutual_information"]) == pytest.approx(0, abs=1e-15)


def test_certain_passes_that_disagree_are_all_epistemic():
    found = measured("probabilities", [[[1.0, 0.0]], [[0.0, 1.0]]])
    assert float(found["mutual_information"]) == pytest.approx(math.log(2), abs=1e-15)
    assert float(found["expected_entropy"]) == 0
    assert found["variance"].tolist() == [[0.25, 0.25]]
    assert float(found["margin"]) == 0
    assert float(found["least_confidence"]) == float(found["vote_variation_ratio"]) == 0.5


def test_rounding_makes_no_mutual_information_negative():
    """Equal passes: H[E p] and E H[p] are the same number, rounded in two ways."""
    logits = torch.randn(1, 1000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = measured("logits", logits.expand(7, 1000, 4))
    assert (found["predictive_entropy"] < found["expected_entropy"]).any()
    assert (found["mutual_information"] >= 0).all()


def test_one_pass_has_no_epistemic_uncertainty():
    found = measured("logits", [[[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]]])
    for name in ("variance", "std", "mutual_information", "vote_variation_ratio"):
        assert (found[name] == 0).all(), name
    assert (found["predictive_entropy"] == found["expected_entropy"]).all()


@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_no_rows_have_measures_of_no_rows(output):
    for name, value in measured(output, torch.zeros(3, 0, 2)).items():
        assert len(value) == 0, name


@pytest.mark.parametrize("column", [0, 1], ids=["first column", "second column"])
@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_a_nan_spoils_its_own_row_and_no_other(output, column):
    clean = torch.tensor([[[0.3, 0.7], [0.9, 0.1], [0.5, 0.5]]] * 3, dtype=torch.float64)
    spoilt = clean.clone()
    spoilt[1, 1, column] = torch.nan
    wanted, found = measured(output, clean), measured(output, spoilt)
    for name, value in found.items():
        assert torch.equal(value[[0, 2]], wanted[name][[0, 2]]), name
    reached = ["variance", "std"] if output_kind(output).task == "regression" else list(found)
    for name in reached:
        assert found[name][1].isnan().any(), name


def test_a_logit_of_minus_infinity_is_a_class_that_cannot_be():
    found = measured("logits", [[[0.0, 0.0, -math.inf]]])
    assert found["mean"].tolist() == [[0.5, 0.5, 0.0]]
    assert float(found["predictive_entropy"]) == pytest.approx(math.log(2), abs=1e-15)


def bernoulli_entropy(p):
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def by_label(passes):
    """Every measure of [T][B][C] probabilities of labels, one label at a time."""
    rows = [list(zip(*row, strict=True)) for row in zip(*passes, strict=True)]  # [B][C][T]
    mean = [[sum(label) / len(label) for label in row] for row in rows]
    variance = [
        [sum((p - m) ** 2 for p in label) / len(label) for label, m in zip(row, means, strict=True)]
        for row, means in zip(rows, mean, strict=True)
    ]
    total = [sum(map(bernoulli_entropy, row)) for row in mean]
    expected = [sum(sum(map(bernoulli_entropy, label)) / len(label) for label in row) for row in rows]
    return {
        "mean": mean,
        "variance": variance,
        "std": [[math.sqrt(v) for v in row] for row in variance],
        "predictive_entropy": total,
        "expected_entropy": expected,
        "mutual_information": [max(t - e, 0.0) for t, e in zip(total, expected, strict=True)],
        "least_confidence": [max(min(p, 1 - p) for p in row) for row in mean],
    }


LABELS = arrays(st.integers(0, 8)).map(lambda t: [[[n / 8 for n in row] for row in rows] for rows in t])


@given(LABELS)
def test_measures_of_labels_are_those_of_each_bernoulli(probabilities):
    assert_measures(measured("multilabel_probabilities", probabilities), by_label(probabilities))


@given(arrays(FINITE))
def test_measures_of_label_logits_are_those_of_their_logistic_function(logits):
    probabilities = [[[1 / (1 + math.exp(-z)) for z in row] for row in rows] for rows in logits]
    assert_measures(measured("multilabel_logits", logits), by_label(probabilities))


def test_labels_are_told_apart_from_classes():
    """Two labels that are surely there: no uncertainty; as two classes they would be undecided."""
    found = measured("multilabel_logits", [[[40.0, 40.0]]])
    assert float(found["predictive_entropy"]) < 1e-15
    assert found["mean"].tolist() == [[1.0, 1.0]]
    assert float(measured("logits", [[[40.0, 40.0]]])["predictive_entropy"]) == pytest.approx(math.log(2))


def test_passes_that_disagree_on_labels_have_log_2_of_information_for_each():
    found = measured("multilabel_probabilities", [[[1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0]]])
    assert float(found["mutual_information"]) == pytest.approx(2 * math.log(2), abs=1e-15)
    assert float(found["least_confidence"]) == 0.5


def test_an_unknown_kind_is_refused_and_the_known_are_listed():
    with pytest.raises(
        InvalidInput, match="'scores'; choose one of logits, probabilities, multilabel_logits, multilabel_pro"
    ):
        output_kind("scores")


def test_an_odd_number_of_columns_is_no_mean_and_log_variance():
    with pytest.raises(InvalidInput, match="3 columns; mean_and_log_variance needs an even number"):
        measured("mean_and_log_variance", torch.zeros(2, 1, 3))
