"""What is true of every variant: one test a law, over every row of tests/support/cases.py."""

import copy
import math
import random

import pytest
import torch

from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.engine.tuning import Tuning
from dropout_core.errors import InvalidInput
from dropout_core.verify import is_the_model, verify
from tests.support.captured import captured_layer
from tests.support.cases import CASES

P = 0.3
SAMPLES = 4000
PASSES = 2000

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_with_moments = pytest.mark.parametrize(
    "case", [case for case in CASES if case.mean is not None], ids=lambda case: case.name
)
each_with_eval_law = pytest.mark.parametrize(
    "case", [case for case in CASES if case.off or case.mean], ids=lambda case: case.name
)
each_rated = pytest.mark.parametrize("case", [case for case in CASES if case.rated], ids=lambda case: case.name)
each_kept_or_dropped = pytest.mark.parametrize(
    "case", [case for case in CASES if case.kept is not None], ids=lambda case: case.name
)


def seeded(layer, x, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return layer(x)


def samples(case, layer, x, count):
    """The outputs of so many draws for one row, [count, *out]."""
    if case.per_batch:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return torch.cat([layer(x) for _ in range(count)])
    return seeded(layer, x.expand(count, *x.shape[1:]), 1)


def assert_moments(drawn, mean, variance):
    """Draws [n, …] against exact moments, each within five standard errors of its estimate."""
    count, rounding = len(drawn), 1e-9 * (1 + mean.abs())
    assert ((drawn.mean(0) - mean).abs() <= 5 * (variance / count).sqrt() + rounding).all()
    squares = (drawn - mean).square()
    assert ((squares.mean(0) - variance).abs() <= 5 * squares.std(0) / math.sqrt(count) + rounding**2).all()


@each_with_eval_law
def test_eval_mode_returns_the_documented_value(case):
    layer, x = case.layer(P), case.rows(3)
    expected = (case.off or case.mean)(layer, x)
    assert torch.allclose(layer.eval()(x), expected, rtol=1e-12, atol=1e-12)


@each
def test_eval_mode_draws_nothing(case):
    layer, x = case.layer(P).eval(), case.rows(3)
    assert torch.equal(seeded(layer, x, 0), seeded(layer, x, 1))


@each_with_moments
@torch.no_grad()
def test_training_has_the_mean_and_the_variance_of_its_law(case):
    x = case.rows(1)
    drawn = samples(case, case.layer(P), x, SAMPLES)
    mean = case.mean(case.layer(P), x)[0]
    assert_moments(drawn, mean, case.variance(case.layer(P), x)[0])


@each_kept_or_dropped
@torch.no_grad()
def test_dropped_is_zero_and_kept_is_scaled_at_the_realised_rate(case):
    x = case.rows(1)
    drawn = samples(case, case.layer(P), x, SAMPLES)
    dropped = drawn == 0
    scaled = x * case.kept(P)
    assert (
        torch.where(dropped, scaled, drawn).sub(scaled).abs().max() <= 4 * torch.finfo(x.dtype).eps * scaled.abs().max()
    )
    rates = case.units(dropped).double().mean(1)
    assert abs(rates.mean() - P) < 5 * rates.std() / math.sqrt(SAMPLES)


@each_kept_or_dropped
def test_the_gradient_is_zero_where_dropped_and_that_of_the_scale_where_kept(case):
    layer, x = case.layer(P), case.rows(50).requires_grad_()
    y = seeded(layer, x)
    y.sum().backward()
    assert not x.grad[y == 0].any()
    assert torch.allclose(x.grad[y != 0], torch.tensor(case.kept(P), dtype=x.dtype))
    assert (y == 0).any()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.smooth and case.has_gradient], ids=lambda case: case.name
)
def test_gradients_are_those_of_finite_differences(case):
    """With the noise of one seed: for the inputs and for every parameter, learned rates included."""
    layer, x = case.layer(P), case.rows(2)
    named = {name: value.detach().requires_grad_() for name, value in layer.named_parameters()}
    inputs = (x.requires_grad_(),) if x.is_floating_point() else ()

    def run(*tensors):
        weights = dict(zip(named, tensors[len(inputs) :], strict=True))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.func.functional_call(layer, weights, (tensors[0] if inputs else x,))

    assert torch.autograd.gradcheck(run, (*inputs, *named.values()))


@each_rated
def test_a_rate_of_zero_drops_nothing(case):
    if case.no_rate == "refused":
        with pytest.raises(InvalidInput, match=r"0(\.0)?;"):
            case.layer(0.0)
        return
    layer, x = case.layer(0.0), case.rows(20)
    assert torch.equal(layer(x), layer.eval()(x))


@each_rated
def test_a_rate_of_one_is_defined_or_refused(case):
    if case.full_rate == "refused":
        with pytest.raises(InvalidInput, match=r"1(\.0)?;"):
            case.layer(1.0)
        return
    layer, x = case.layer(1.0), case.rows(20)
    y = layer(x)
    wanted = torch.zeros_like(y) if case.full_rate == "zero" else case.full_rate(layer, x)
    assert torch.allclose(y, wanted, rtol=0, atol=1e-12)


@each_rated
def test_every_layer_checks_its_rate(case):
    with pytest.raises(InvalidInput, match="drop probability is a number"):
        case.layer(1.1)


@pytest.mark.parametrize(
    ("case", "shape"),
    [(case, shape) for case in CASES for shape in case.refused],
    ids=lambda each: each if isinstance(each, tuple) else each.name,
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_wrong_shape_is_refused_with_the_right_one(case, shape, mode):
    x = case.sample(shape, torch.Generator().manual_seed(0))
    layer = case.layer(P).train(mode == "train")
    with pytest.raises(InvalidInput, match=r"is wanted"):
        layer(x.double() if x.is_floating_point() else x)


@each
def test_types_are_kept(case):
    for dtype in case.dtypes:
        layer, x = case.layer(P, dtype), case.rows(8, dtype)
        for y in (layer(x), layer.eval()(x)):
            assert y.dtype == dtype
            assert y.isfinite().all()


@each
def test_memory_layout_and_empty_batches_do_not_matter(case):
    layer, x = case.layer(P), case.rows(8)
    spread = torch.stack([x, x], dim=-1)[..., 0]
    assert not spread.is_contiguous()
    if case.kept is not None:
        y = layer(spread)
        assert torch.allclose(torch.where(y == 0, x * case.kept(P), y), x * case.kept(P))
    assert layer(spread).shape == layer(x).shape
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])
    layer.eval()
    assert torch.allclose(layer(spread), layer(x), rtol=1e-12, atol=1e-12)
    assert layer(x[:0]).shape == (0, *layer(x).shape[1:])


@each
def test_copies_and_saved_states_act_alike(case):
    layer, x = case.layer(P), case.rows(8)
    loaded = case.make(P).to(x.dtype if x.is_floating_point() else torch.float64)
    loaded.load_state_dict(layer.state_dict())
    for other in (loaded, copy.deepcopy(layer)):
        assert torch.equal(seeded(other, x), seeded(layer, x))


@each
def test_only_the_seed_of_torch_decides_and_nothing_else_moves(case):
    layer, x = case.layer(P), case.rows(50)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    host = random.getstate()
    first, again, other = (seeded(layer, x, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert random.getstate() == host
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in state.items())


@each
def test_rows_do_not_depend_on_their_batchmates(case):
    layer, x = case.layer(P), case.rows(6)
    changed = torch.cat([x[:3], x[3:].flip(0)])
    assert torch.equal(seeded(layer, x)[:3], seeded(layer, changed)[:3])


@each
@torch.no_grad()
def test_the_engine_finds_its_sites_and_passes_have_its_monte_carlo_law(case):
    (net, program), x = captured_layer(case), case.rows(2)
    engine = Engine(program)
    is_the_model(program, net, x)
    verify(program, engine, x, "mean")
    assert tuple(site.kind for site in program.graph.sites) == case.kinds
    assert net.training
    mean, variance = case.passes_mean or case.mean, case.passes_variance or case.variance
    if mean is None:
        return
    drawn = torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, x, PassOptions(PASSES, 0, sampling="iid"))]
    )
    layer = case.layer(P)
    assert_moments(drawn, mean(layer, x).flatten(1), variance(layer, x).flatten(1))


@each
@torch.no_grad()
def test_passes_in_one_batch_are_the_passes_one_by_one(case):
    x, (_, program) = case.rows(3), captured_layer(case)
    together, alone = Engine(program), Engine(program, Tuning(chunk_bytes=1))
    batched, looped = (
        torch.cat([chunk.outputs for chunk in engine.run(program.weights, x, PassOptions(8, 5, sampling="iid"))])
        for engine in (together, alone)
    )
    assert torch.allclose(batched, looped, rtol=1e-12, atol=1e-12)
