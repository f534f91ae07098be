import pytest
import torch

from dropout_core.engine.masks import Masks, mask_shape, num_units
from dropout_core.engine.options import PassOptions
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.graph.program import Ref, RowAxis, Site
from dropout_core.noise.balanced import balanced_words
from dropout_core.noise.philox import keep_mask, normal, normal_of, words

B = 4
ROWS = torch.arange(B)


def masks(seed, first, count, **scheme):
    return Masks(PassOptions(1, seed, **{"sampling": "iid", **scheme}), range(first, first + count))


def site(rows, kind="dropout", rate=0.2, index=3):
    return Site("s", index, kind, Ref("x"), rate, rows)


# a name: the site, the value's shape, one pass of its mask with the rows taken out, and the coordinates drawn
LAYOUTS = {
    "rows first": (site(RowAxis(0)), (B, 5), (1, 1, 5), (5,)),
    "a sequence": (site(RowAxis(0)), (B, 3, 5), (1, 1, 3, 5), (3, 5)),
    "rows second": (site(RowAxis(1)), (3, B, 5), (3, 1, 1, 5), (3, 5)),
    "rows last": (site(RowAxis(2)), (3, 5, B), (3, 5, 1, 1), (3, 5)),
    "steps folded into rows": (site(RowAxis(0, after=3)), (B * 3, 5), (1, 3, 5), (3, 5)),
    "views stacked over rows": (site(RowAxis(0, before=2)), (2 * B, 5), (2, 1, 5), (2, 5)),
    "folded on both sides": (site(RowAxis(0, 2, 3)), (2 * B * 3, 5), (2, 3, 5), (2, 3, 5)),
    "one number a row": (site(RowAxis(0)), (B,), (1, 1), ()),
    "channels of an image": (site(RowAxis(0), "feature_dropout"), (B, 5, 2, 3), (1, 1, 5, 1, 1), (5,)),
    "channels of folded frames": (
        site(RowAxis(0, after=2), "feature_dropout"),
        (B * 2, 5, 3),
        (1, 2, 5, 1),
        (2, 5),
    ),
}
each_layout = pytest.mark.parametrize(("where", "shape", "mask", "drawn"), LAYOUTS.values(), ids=LAYOUTS.keys())


@each_layout
def test_rows_are_no_coordinate_of_a_mask(where, shape, mask, drawn):
    assert mask_shape(where, torch.zeros(shape)) == (mask, drawn)
    assert num_units(where, torch.zeros(shape)) == torch.Size(drawn).numel()


@each_layout
def test_all_rows_are_multiplied_by_the_mask_of_their_pass(where, shape, mask, drawn):
    """By hand: passes outermost among the rows, as in a boundary tiled for each pass."""
    num_passes, first, axis = 3, 30, where.rows.axis
    tiled = list(shape)
    tiled[axis] *= num_passes
    found = masks(7, first, 5).apply(where, torch.ones(tiled), 1, 1 + num_passes, ROWS)
    by_row = found.unflatten(axis, (where.rows.before, num_passes, B, where.rows.after)).movedim(axis + 1, 0)
    for number in range(num_passes):
        kept = keep_mask(7, where.index, torch.tensor([first + 1 + number]), drawn, where.rate)[0]
        wanted = (kept.float() / (1 - where.rate)).reshape(mask).unsqueeze(axis + 1)
        assert torch.equal(by_row[number], wanted.expand_as(by_row[number]))


@each_layout
def test_a_value_without_passes_is_repeated_for_each(where, shape, mask, drawn):
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tiled = value.unflatten(where.rows.axis, (where.rows.before, B, where.rows.after))
    tiled = tiled.unsqueeze(where.rows.axis + 1).repeat_interleave(4, where.rows.axis + 1)
    tiled = tiled.flatten(where.rows.axis, where.rows.axis + 3)
    once = masks(0, 0, 4).apply(where, value, 0, 4, ROWS)
    assert torch.equal(once, masks(0, 0, 4).apply(where, tiled, 0, 4, ROWS))


def test_weights_have_one_mask_a_pass():
    weight, run = torch.ones(5, 6), masks(7, 10, 4)
    for number in range(4):
        kept = keep_mask(7, 3, torch.tensor([10 + number]), (5, 6), 0.2)[0]
        found = run.apply(site(None), weight, number, number + 1, ROWS)
        assert torch.equal(found, kept.float() / 0.8)


def test_sites_have_masks_of_their_own():
    run, value = masks(0, 0, 1), torch.ones(B, 50)
    a, b = (run.apply(site(RowAxis(0), index=index), value, 0, 1, ROWS) for index in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(("rate", "value"), [(0.0, 2.0), (1.0, 0.0)], ids=["keep all", "keep none"])
def test_the_extreme_rates_are_exact(rate, value):
    found = masks(0, 0, 9).apply(site(RowAxis(0), rate=rate), torch.full((9 * B, 5), 2.0), 0, 9, ROWS)
    assert (found == value).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_mask_keeps_the_dtype_and_the_draws(dtype):
    found = masks(0, 0, 4).apply(site(RowAxis(0)), torch.ones(B, 8, dtype=dtype), 0, 4, ROWS)
    assert found.dtype == dtype
    kept = keep_mask(0, 3, torch.arange(4), (8,), 0.2)
    assert torch.equal(found.unflatten(0, (4, B))[:, 0] != 0, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_coarse_types_are_scaled_without_a_bias(rate, dtype):
    """1 / 0.9 is 1.109375 in bfloat16; a product with it rounds by half an ulp at most, up as often as down."""
    value = torch.linspace(1.0, 2.0, 4001, dtype=dtype).reshape(1, -1)
    found = masks(0, 0, 64).apply(site(RowAxis(0), rate=rate), value, 0, 64, ROWS[:1]).double()
    kept = found != 0
    wanted = (value.double() / (1 - rate)).expand_as(found)
    error = (found - wanted)[kept] / wanted[kept]
    ulp = torch.finfo(dtype).eps
    assert float(error.abs().max()) <= ulp / 2
    assert abs(float(error.mean())) <= ulp / 20


def test_a_longer_sequence_contains_the_mask_of_a_shorter_one():
    short, long = (masks(0, 0, 4).apply(site(RowAxis(0)), torch.ones(B, n, 8), 0, 4, ROWS) for n in (5, 20))
    assert torch.equal(long[:, :5], short)


def test_each_row_is_compared_with_its_own_probability():
    """All rows of a pass share the draw, so that what is kept at a probability is kept at every larger one."""
    probability = torch.tensor([0.0, 0.3, 0.7, 1.0]).unsqueeze(1).expand(B, 50)
    found = masks(0, 5, 9).apply(site(RowAxis(0), "bernoulli", 0.0), probability, 0, 9, ROWS).unflatten(0, (9, B))
    drawn = words(0, 3, torch.arange(5, 14), (50,)).unsqueeze(1).double() / 2**32
    assert torch.equal(found, (drawn >= 1 - probability.double()).float())
    assert not found[:, 0].any()
    assert found[:, 3].all()
    assert (found.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("tiles", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_normal_draws_are_shared_by_rows_and_ignore_values(tiles, dtype):
    template = torch.full((tiles * B, 5), torch.nan, dtype=dtype)
    found = masks(2, 5, 9).apply(site(RowAxis(0), "normal", 0.0), template, 0, 9, ROWS)
    wanted = normal(2, 3, torch.arange(5, 14), (5,)).to(dtype)
    assert torch.equal(found.unflatten(0, (9, B)), wanted.unsqueeze(1).expand(9, B, 5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_an_unscaled_mask_has_the_type_of_its_template_so_that_the_network_scales_it_there(dtype):
    found = masks(0, 0, 4).apply(site(RowAxis(0), "unscaled", 0.3), torch.zeros(B, 8, dtype=dtype), 0, 4, ROWS)
    assert found.dtype == dtype
    assert torch.equal(found.unflatten(0, (4, B))[:, 0] != 0, keep_mask(0, 3, torch.arange(4), (8,), 0.3))
    assert set(found.flatten().tolist()) == {0.0, 1.0}


KIND_RATES = [("dropout", 0.3), ("feature_dropout", 0.3), ("alpha_dropout", 0.1), ("unscaled", 0.5), ("normal", 0.0)]


@pytest.mark.parametrize(("kind", "rate"), KIND_RATES, ids=str)
def test_balanced_noise_is_made_of_balanced_words(kind, rate):
    """Passes 5 … 39 of a run that begins in the middle of a block: the short way over tables is the long one."""
    where, value, first = site(RowAxis(0), kind, rate), torch.randn(B, 5, 3), 5
    found = masks(3, first, 35, sampling="balanced").apply(where, value, 0, 35, ROWS)
    drawn = balanced_words(3, where.index, range(first, 40), mask_shape(where, value)[1])
    draws = NOISE_KINDS[kind].draw(drawn, rate, value.dtype).reshape(35, 1, *mask_shape(where, value)[0][2:])
    wanted = NOISE_KINDS[kind].apply(value.expand(35, B, 5, 3), draws, rate)
    assert torch.equal(found, wanted.flatten(0, 1))


@each_layout
@pytest.mark.parametrize("sampling", ["iid", "balanced"])
def test_independent_noise_is_keyed_by_the_place_of_a_row(where, shape, mask, drawn, sampling):
    """Each row alone, at its place, has what it has among others."""
    axis, places, value = where.rows.axis, torch.tensor([7, 0, 31, 2]), torch.ones(shape)
    run = masks(7, 16, 5, sampling=sampling, masks="independent")
    found = run.apply(where, value, 1, 4, places).unflatten(axis, (where.rows.before, 3, B, where.rows.after))
    for row, place in enumerate(places):
        one = value.unflatten(axis, (where.rows.before, B, where.rows.after)).select(axis + 1, row)
        alone = run.apply(where, one.flatten(axis, axis + 1), 1, 4, place.reshape(1))
        alone = alone.unflatten(axis, (where.rows.before, 3, 1, where.rows.after)).select(axis + 2, 0)
        assert torch.equal(found.select(axis + 2, row), alone)
    rates = [(found.select(axis + 2, row) == 0).double().mean() for row in range(B)]
    assert len({found.select(axis + 2, row).flatten().numpy().tobytes() for row in range(B)}) > 1 or max(rates) == 0


def test_independent_draws_are_the_words_of_row_and_unit():
    found = masks(7, 2, 3, masks="independent").apply(site(RowAxis(0)), torch.ones(B, 6), 0, 3, ROWS + 10)
    drawn = words(7, 3, torch.arange(2, 5), (6,), rows=ROWS + 10)
    assert torch.equal(found.reshape(3, B, 6) != 0, drawn >= round(0.2 * 2**32))


def test_independent_normal_draws_are_balanced_for_each_row():
    where = site(RowAxis(0), "normal", 0.0)
    found = masks(7, 0, 16, sampling="balanced", masks="independent").apply(where, torch.zeros(B, 6), 0, 16, ROWS)
    wanted = normal_of(balanced_words(7, 3, range(16), (6,), rows=ROWS)).float()
    assert torch.equal(found.reshape(16, B, 6), wanted)


def test_noise_is_made_once_for_all_rows_of_a_run():
    """Balanced, a unit takes four bytes for sixteen passes; independent noise is not kept."""
    value = torch.ones(B, 1000)
    for scheme, nbytes in (
        ({"sampling": "balanced"}, 2 * 4 * 1000),
        ({}, 32 * 4 * 1000),
        ({"masks": "independent"}, 0),
    ):
        run = masks(0, 0, 32, **scheme)
        for _ in range(2):
            run.apply(site(RowAxis(0)), value, 0, 8, ROWS)
        assert run.nbytes == nbytes


@pytest.mark.parametrize("sampling", ["iid", "balanced"])
def test_kept_units_are_those_a_dropout_keeps(sampling):
    run, value = masks(5, 0, 20, sampling=sampling), torch.ones(B, 7)
    applied = run.apply(site(RowAxis(0)), value, 3, 20, ROWS).reshape(17, B, 7)
    assert torch.equal(run.kept(site(RowAxis(0)), value, 3, 20).flatten(1), applied[:, 0] != 0)
