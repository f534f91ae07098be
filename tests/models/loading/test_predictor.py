"""A published network answers as the live one does, in the caller's unit, and refuses rows without an answer."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from dropout_core.acquire import gaussian_mutual_information
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput, NonFiniteOutput, UnknownMeasure
from dropout_core.predict import predict
from mcdrop_models.bundle.manifest import OutputScaling
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.errors import UnknownModel
from mcdrop_models.loading.predictor import Predictor, finite_rows, rescale
from mcdrop_models.publishing.torch import publish
from tests.support.program_nets import CASES, Mlp, Probabilities, Tokens, rows_for, seeded

_SCALE, _SHIFT = (2.5, 40.0), (-3.0, 150.0)


def _served(net, root, shape=(4,), **fields):
    version = publish(net, rows_for(net, shape, 8), name="net", root=root, **fields).version
    return Predictor.load(Repository(root), "net", version)


@pytest.mark.parametrize(
    ("make", "shape", "fields"),
    [
        (Mlp, (4,), {"task": "classification", "output": "logits", "labels": ["a", "b", "c"]}),
        (lambda: Mlp(1), (4,), {"task": "classification", "output": "logits", "labels": ["no", "yes"]}),
        (Probabilities, (4,), {"task": "classification", "output": "probabilities"}),
        (Tokens, (5,), {"task": "classification", "output": "logits"}),
        (Mlp, (4,), {"task": "regression", "output": "mean"}),
        (lambda: Mlp(4), (4,), {"task": "regression", "output": "mean_and_log_variance"}),
        (CASES["a CNN with batch norm and feature dropout"].make, (1, 6, 6), {"task": "classification"}),
        (CASES["dropout on weights"].make, (4,), {"task": "regression"}),
    ],
    ids=[
        "several classes with labels",
        "a single logit",
        "probabilities",
        "tokens",
        "means",
        "means and variances",
        "a CNN",
        "dropout on weights",
    ],
)
def test_a_published_network_answers_exactly_as_the_live_one(tmp_path, make, shape, fields):
    net = seeded(make)
    predictor = _served(net, tmp_path, shape, **fields)
    output = predictor.manifest.output
    for num_rows, passes, seed in ((1, 3, 0), (40, 33, 9)):
        rows = rows_for(net, shape, num_rows, seed=21)
        live = predict(net, rows, passes=passes, seed=seed, output=output, keep_draws=True)
        published = predictor.predict(rows, PassOptions(passes, seed), keep_draws=True)
        assert published.measures == live.measures
        for measure in live.measures:
            assert torch.equal(published.measure(measure), live.measure(measure)), measure
        assert torch.equal(published.samples, live.samples)
        assert torch.equal(published.quantiles([0.05, 0.5]), live.quantiles([0.05, 0.5]))
        assert (published.passes, published.seed) == (passes, seed)
    assert bool((published.variance > 0).all())  # so that the comparison can fail
    assert published.mean.shape == (40, predictor.manifest.num_outputs)


def test_without_a_plan_the_bundle_decides_and_keywords_win(tmp_path):
    net = seeded(Mlp)
    predictor = _served(net, tmp_path, task="classification", passes=24, seed=5, sampling="iid")
    rows = rows_for(net, (4,), 6)
    for found, plan in (
        (predictor.predict(rows), PassOptions(24, 5, sampling="iid")),
        (predictor.predict(rows, passes=40, seed=6), PassOptions(40, 6, sampling="iid")),
        (predictor.predict(rows, sampling="balanced", branches=2), PassOptions(24, 5, sampling="balanced", branches=2)),
        (predictor.predict(rows, masks="independent"), PassOptions(24, 5, sampling="iid", masks="independent")),
        (predictor.predict(rows, tolerance=0.1), PassOptions(seed=5, sampling="iid").overridden(tolerance=0.1)),
    ):
        assert torch.equal(found.mean, predictor.predict(rows, plan).mean)
    assert bool((predictor.predict(rows, tolerance=0.05, passes=640, min_passes=64).measure("passes_used") >= 64).all())


@pytest.mark.parametrize(
    "given",
    [
        lambda rows: rows.numpy(),
        lambda rows: rows.double().numpy(),
        lambda rows: rows.double(),
        lambda rows: (rows.numpy(),),
        lambda rows: {"input": rows.numpy()},
        lambda rows: rows.numpy()[::-1][::-1],
    ],
    ids=["numpy", "numpy's float64", "float64", "a tuple", "a mapping", "a view"],
)
def test_rows_come_from_numpy_and_torch_alike(published, given):
    predictor = Predictor.load(Repository(published), "net", 1)
    rows = rows_for(Mlp(), (4,), 5)
    assert torch.equal(predictor.predict(given(rows)).mean, predictor.predict(rows).mean)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], "the rows are list; give a tensor or a numpy array"),
        (np.array([["a", "b", "c", "d"]]), "the rows are <U1; give a tensor or a numpy array"),
        (torch.ones(2, 4, dtype=torch.complex64), "input is torch.complex64, but the network takes torch.float32"),
        (np.ones((2, 5)), r"input has shape \[2, 5\]"),
        ((np.ones((2, 4)), np.ones((2, 4))), "2 without names"),
    ],
    ids=["a list", "texts", "complex numbers", "another shape", "two inputs"],
)
def test_rows_that_do_not_fit_are_refused_with_advice(published, rows, reason):
    with pytest.raises(InvalidInput, match=reason):
        Predictor.load(Repository(published), "net", 1).predict(rows)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (torch.full((1, 5), 1.5), "x is torch.float32, but the network takes torch.int64"),
        (np.full((1, 5), 2**63, np.uint64), "the network knows 0 … 9"),
    ],
    ids=["a fraction", "beyond int64"],
)
def test_numbers_that_an_integer_input_cannot_hold_are_refused(tmp_path, rows, reason):
    predictor = _served(seeded(Tokens), tmp_path, (5,), task="classification")
    with pytest.raises(InvalidInput, match=reason):
        predictor.predict(rows)


def test_the_first_passes_do_not_depend_on_the_number_of_passes(published):
    predictor = Predictor.load(Repository(published), "net", 1)
    rows = rows_for(Mlp(), (4,), 5)
    few, many = (predictor.predict(rows, PassOptions(passes, 3), keep_draws=True).samples for passes in (5, 40))
    assert torch.equal(many[:5], few)
    assert not torch.equal(
        predictor.predict(rows, PassOptions(5, 4)).mean, predictor.predict(rows, PassOptions(5, 3)).mean
    )


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """The scaled estimate of a network of two means and two log variances, and the live one in the network's unit."""
    net = seeded(lambda: Mlp(4))
    rows = rows_for(net, (4,), 6, seed=3)
    fields = {"task": "regression", "output": "mean_and_log_variance", "output_scaling": (_SCALE, _SHIFT)}
    predictor = _served(net, tmp_path_factory.mktemp("scaled"), **fields)
    live = predict(net, rows, passes=24, seed=5, output="mean_and_log_variance", keep_draws=True)
    return predictor.predict(rows, PassOptions(24, 5), keep_draws=True), live


def _close(a, b):
    """Return whether values are equal up to a few roundings of float64 at their scale."""
    return torch.allclose(a, b, rtol=0.0, atol=64 * torch.finfo(torch.float64).eps * float(b.abs().max()))


def test_scaled_moments_are_those_of_the_scaled_passes(scaled):
    """The oracle scales each pass by hand and takes the moments."""
    ours, live = scaled
    scale, shift = torch.tensor(_SCALE, dtype=torch.float64), torch.tensor(_SHIFT, dtype=torch.float64)
    means, variances = live.draws["value"] * scale + shift, live.draws["aleatoric"] * scale**2
    assert _close(ours.mean, means.mean(0))
    assert _close(ours.epistemic_variance, means.var(0, correction=0))
    assert _close(ours.aleatoric_variance, variances.mean(0))
    assert _close(ours.variance, means.var(0, correction=0) + variances.mean(0))
    assert _close(ours.std, (means.var(0, correction=0) + variances.mean(0)).sqrt())
    assert _close(ours.samples, means)
    # in nats, which a unit does not change
    assert _close(ours.gaussian_mutual_information, live.gaussian_mutual_information)
    assert _close(ours.gaussian_mutual_information, gaussian_mutual_information(means, variances))


def test_scaled_quantiles_have_their_level_in_the_scaled_mixture(scaled):
    ours, live = scaled
    scale, shift = torch.tensor(_SCALE, dtype=torch.float64), torch.tensor(_SHIFT, dtype=torch.float64)
    mixture = torch.distributions.Normal(live.draws["value"] * scale + shift, live.draws["aleatoric"].sqrt() * scale)
    levels = [0.05, 0.5, 0.95]
    quantiles = ours.quantiles(levels)
    assert quantiles.shape == (3, 6, 2)
    for quantile, level in zip(quantiles, levels, strict=True):
        # a double next to the quantile is eps · |quantile| away, and the density is at most 1 / (√2π · the least std)
        slack = 64 * torch.finfo(torch.float64).eps * (1 + quantile.abs() / mixture.scale.amin(0))
        assert bool(((mixture.cdf(quantile).mean(0) - level).abs() < slack).all())


def test_quantiles_of_means_alone_are_scaled_too(tmp_path):
    net = seeded(lambda: Mlp(2))
    rows = rows_for(net, (4,), 6)
    predictor = _served(net, tmp_path, task="regression", output_scaling=(_SCALE, _SHIFT))
    live = predict(net, rows, passes=24, seed=5, output="mean", keep_draws=True)
    ours = predictor.predict(rows, PassOptions(24, 5), keep_draws=True)
    scale, shift = torch.tensor(_SCALE, dtype=torch.float64), torch.tensor(_SHIFT, dtype=torch.float64)
    assert _close(ours.quantiles([0.1, 0.9]), live.quantiles([0.1, 0.9]) * scale + shift)
    with pytest.raises(UnknownMeasure, match="mean, variance, std, epistemic_variance"):
        ours.measure("aleatoric_variance")


def test_the_stored_probe_is_in_the_networks_unit(tmp_path):
    """The known answer checks the network; the digest of the manifest covers its scaling."""
    net = seeded(lambda: Mlp(2))
    predictor = _served(net, tmp_path, task="regression", output_scaling=(_SCALE, _SHIFT))
    again = predictor.predict(predictor.probe, PassOptions(64, 0)).mean
    live = predict(net, predictor.probe, passes=64, seed=0, output="mean").mean
    assert _close(again, live * torch.tensor(_SCALE) + torch.tensor(_SHIFT))


def test_a_classification_cannot_be_rescaled(published):
    estimate = Predictor.load(Repository(published), "net", 1).predict(torch.ones(1, 4), PassOptions(4, 0))
    assert rescale(estimate, None) is estimate
    with pytest.raises(InvalidInput, match="only a regression"):
        rescale(estimate, OutputScaling(scale=(1.0,) * 3, shift=(0.0,) * 3))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_whose_answer_is_not_finite_is_named(published, value):
    predictor = Predictor.load(Repository(published), "net", 1)
    rows = rows_for(Mlp(), (4,), 5)
    rows[3, 1] = value
    with pytest.raises(NonFiniteOutput, match="row 3"):
        predictor.predict(rows, PassOptions(8, 0))
    assert bool(predictor.predict(rows[:3], PassOptions(8, 0)).mean.isfinite().all())


def test_rows_of_several_requests_are_estimated_together(published):
    predictor = Predictor.load(Repository(published), "net", 1)
    first, second = rows_for(Mlp(), (4,), 3, seed=1), rows_for(Mlp(), (4,), 2, seed=2)
    plan = PassOptions(8, 0, sampling="balanced", masks="independent")
    second[1, 0] = math.nan
    inputs = {name: torch.cat([first, second]) for name in predictor.probe}
    estimate = predictor.estimate(inputs, plan, places=torch.tensor([0, 1, 2, 0, 1]))
    assert finite_rows(estimate).tolist() == [True] * 4 + [False]
    alone = torch.cat([predictor.predict(first, plan).mean, predictor.predict(second[:1], plan).mean])
    # other batch sizes round differently; 1e-5 of the scale is promised
    assert torch.allclose(estimate.mean[:4], alone, rtol=0.0, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize(
    "scheme", [PassOptions(sampling="iid"), PassOptions(sampling="balanced", masks="independent")], ids=str
)
def test_a_published_network_draws_as_the_live_one(published, scheme):
    """Bit for bit; and each scheme gives another answer than the default."""
    predictor, rows = Predictor.load(Repository(published), "net", 1), rows_for(Mlp(), (4,), 6)
    fields = {"sampling": scheme.sampling, "masks": scheme.masks, "branches": scheme.branches}
    ours = predictor.predict(rows, replace(scheme, passes=20, seed=3)).mean
    assert torch.equal(ours, predict(seeded(Mlp), rows, passes=20, seed=3, **fields).mean)
    assert not torch.equal(ours, predictor.predict(rows, PassOptions(20, 3)).mean)


def test_independent_masks_are_those_of_a_rows_place(published):
    predictor, rows = Predictor.load(Repository(published), "net", 1), rows_for(Mlp(), (4,), 3)
    plan = PassOptions(20, 3, sampling="balanced", masks="independent")
    together = predictor.predict(rows, plan).mean
    among_others = predictor.predict(torch.cat([rows[2:] * 9, rows[1:2], rows[:1] * 9, rows]), plan).mean
    for at_its_place, wanted in (
        (predictor.predict(rows[:1], plan).mean[0], together[0]),
        (among_others[1], together[1]),
    ):
        assert torch.allclose(at_its_place, wanted, rtol=0.0, atol=1e-5)
    same = predictor.predict(rows[:1].repeat(3, 1), plan).mean
    assert len({tuple(row.tolist()) for row in same}) == 3
    shared = predictor.predict(rows[:1].repeat(3, 1), PassOptions(20, 3)).mean
    assert torch.allclose(shared, shared[:1], rtol=0.0, atol=1e-5)


def test_no_rows_give_an_empty_estimate(published):
    estimate = Predictor.load(Repository(published), "net", 1).predict(torch.ones(0, 4), PassOptions(8, 0))
    assert estimate.mean.shape == estimate.variance.shape == (0, 3)


def test_one_predictor_serves_many_threads(published):
    predictor = Predictor.load(Repository(published), "net", 1)
    rows = rows_for(Mlp(), (4,), 64)
    weights = {name: value.clone() for name, value in predictor.program.weights.items()}
    wanted = [predictor.predict(rows, PassOptions(16, seed)).mean for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda seed: predictor.predict(rows, PassOptions(16, seed)).mean, range(16)))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in predictor.program.weights.items())


def test_large_batches_answer_as_single_rows_do(tmp_path):
    """The prefix runs in several chunks, whose boundaries are concatenated. Equal to 1e-5 of the output's scale."""
    net = seeded(CASES["folded rows"].make)
    predictor = _served(net, tmp_path, (3, 4), task="regression")
    rows = rows_for(net, (3, 4), 2**16)
    together = predictor.predict(rows, PassOptions(2, 0)).mean
    for row in (0, 2**15, 2**16 - 1):
        alone = predictor.predict(rows[row : row + 1], PassOptions(2, 0)).mean[0]
        assert torch.allclose(together[row], alone, rtol=0.0, atol=1e-5 * float(together.abs().max()))


def test_an_unknown_model_or_version_is_named(published):
    repository = Repository(published)
    with pytest.raises(UnknownModel, match=r"^net has no version 2; it has 1\.$"):
        Predictor.load(repository, "net", 2)
    with pytest.raises(UnknownModel, match=r"^there is no model 'nothing'; there are net\.$"):
        Predictor.load(repository, "nothing", 1)
