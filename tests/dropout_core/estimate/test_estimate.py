import pytest
import torch

from dropout_core.engine.engine import Chunk
from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.estimate.estimate import fold_passes
from dropout_core.measures.measures import OUTPUT_KINDS
from dropout_core.measures.quantiles import quantiles
from tests.support import references

OUTPUTS = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(0))
CLASSIFICATION = [
    "mean",
    "variance",
    "std",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "least_confidence",
    "margin",
    "vote_variation_ratio",
]
REGRESSION = ["mean", "variance", "std", "epistemic_variance"]
MULTILABEL = [name for name in CLASSIFICATION if name not in ("margin", "vote_variation_ratio")]
MEASURES = {
    "multilabel_logits": MULTILABEL,
    "multilabel_probabilities": MULTILABEL,
    "logits": CLASSIFICATION,
    "probabilities": CLASSIFICATION,
    "mean": REGRESSION,
    "mean_and_log_variance": [*REGRESSION, "aleatoric_variance", "gaussian_mutual_information"],
}


def chunked(outputs, rows, passes):
    """As the engine cuts them: rows in order, passes in order within each, blocks of passes outermost."""
    for start in range(0, len(outputs), passes):
        for index, first in enumerate(range(0, outputs.shape[1], rows)):
            yield Chunk(index, outputs[start : start + passes, first : first + rows])


def estimate(output, outputs=OUTPUTS, rows=5, passes=12, keep_draws=False):
    return fold_passes(chunked(outputs, rows, passes), output, len(outputs), 3, "captured", keep_draws)


@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_an_estimate_has_exactly_the_measures_of_its_task(output):
    assert sorted(estimate(output).measures) == sorted(MEASURES[output])


@pytest.mark.parametrize(("rows", "passes"), [(5, 12), (2, 5), (1, 1)], ids=["whole", "in parts", "one by one"])
@pytest.mark.parametrize("output", ["logits", "mean"])
def test_the_measures_are_the_reference_however_the_passes_came(output, rows, passes):
    found = estimate(output, rows=rows, passes=passes)
    draws = OUTPUTS.double().tolist()
    if output == "logits":
        wanted = references.classification([[references.softmax(row) for row in one] for one in draws])
    else:
        wanted = references.regression(draws)
    for name in found.measures:
        torch.testing.assert_close(
            getattr(found, name), torch.tensor(wanted[name], dtype=torch.float64), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_kept_draws_are_the_passes_in_order(output):
    whole = estimate(output, keep_draws=True)
    parts = estimate(output, rows=2, passes=5, keep_draws=True)
    assert torch.equal(whole.samples, OUTPUT_KINDS[output].values(OUTPUTS.double())["value"])
    torch.testing.assert_close(parts.samples, whole.samples, rtol=1e-15, atol=0)  # a sigmoid's tail is another loop


def test_samples_were_never_kept_unasked():
    for ask in (lambda: estimate("mean").samples, lambda: estimate("mean").quantiles([0.5])):
        with pytest.raises(InvalidInput, match="ask for them with keep_draws=True"):
            ask()


def test_quantiles_are_of_the_mixture_where_a_variance_is_predicted():
    found = estimate("mean_and_log_variance", rows=2, passes=5, keep_draws=True).quantiles([0.1, 0.9])
    means, log_variances = OUTPUTS.double().chunk(2, dim=-1)
    wanted = quantiles({"value": means, "aleatoric": log_variances.exp()}, [0.1, 0.9])
    assert torch.equal(found, wanted)
    assert not torch.equal(found, quantiles({"value": means}, [0.1, 0.9]))


@pytest.mark.parametrize("output", ["mean", "mean_and_log_variance"])
def test_rescaling_is_rescaling_the_outputs(output):
    """y → s·y + a takes a log variance to itself + 2·log s."""
    scale, shift = torch.tensor([2.0, 0.5, 10.0, 4.0]), torch.tensor([1.0, -3.0, 0.0, 100.0])
    if output == "mean":
        direct = OUTPUTS.double() * scale + shift
    else:
        scale, shift = scale[:2], shift[:2]
        means, log_variances = OUTPUTS.double().chunk(2, dim=-1)
        direct = torch.cat([means * scale + shift, log_variances + 2 * scale.double().log()], dim=-1)
    found = estimate(output, keep_draws=True).rescaled(scale, shift)
    wanted = estimate(output, direct, keep_draws=True)
    for name in wanted.measures:
        torch.testing.assert_close(found.measure(name), wanted.measure(name), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.samples, wanted.samples, rtol=1e-12, atol=1e-12)
    levels = [0.1, 0.5, 0.9]
    torch.testing.assert_close(found.quantiles(levels), wanted.quantiles(levels), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_classes_have_no_unit_to_scale_to(output):
    with pytest.raises(InvalidInput, match="only a regression's outputs have a unit"):
        estimate(output).rescaled(torch.ones(4), torch.zeros(4))


@pytest.mark.parametrize("output", OUTPUT_KINDS)
def test_an_unknown_measure_is_refused_and_the_known_are_listed(output):
    other = "mutual_information" if output in ("mean", "mean_and_log_variance") else "epistemic_variance"
    for name in ("uncertainty", other):
        with pytest.raises(UnknownMeasure) as refusal:
            getattr(estimate(output), name)
        assert repr(name) in str(refusal.value)
        assert ", ".join(MEASURES[output]) in str(refusal.value)


def test_an_unknown_measure_is_a_missing_attribute():
    assert not hasattr(estimate("mean"), "entropy")
    assert not hasattr(estimate("mean"), "_repr_html_")


def test_one_number_a_row_is_one_column():
    flat = estimate("mean", OUTPUTS[:, :, 0])
    column = estimate("mean", OUTPUTS[:, :, :1])
    assert flat.mean.shape == (5, 1)
    assert torch.equal(flat.mean, column.mean)
    assert estimate("logits", OUTPUTS[:, :, 0]).mean.shape == (5, 2)


def test_no_rows_have_an_estimate_of_no_rows():
    empty = fold_passes([Chunk(0, OUTPUTS[:, :0])], "logits", 12, 0, "captured", keep_draws=True)
    assert empty.mean.shape == (0, 4)
    assert empty.mutual_information.shape == (0,)
    assert empty.samples.shape == (12, 0, 4)
    assert empty.quantiles([0.5]).shape == (1, 0, 4)


def test_an_estimate_tells_how_it_was_made():
    one = estimate("logits")
    assert (one.output, one.passes, one.seed, one.method, one.kind.task) == (
        "logits",
        12,
        3,
        "captured",
        "classification",
    )


def test_coarse_outputs_are_measured_in_float64():
    found = estimate("mean", OUTPUTS.bfloat16())
    torch.testing.assert_close(found.mean, OUTPUTS.bfloat16().double().mean(0), rtol=0, atol=1e-15)
