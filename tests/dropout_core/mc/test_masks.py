import pytest
import torch

from dropout_core.mc.masks import Masks, mask_shape, num_units
from dropout_core.mc.program import Ref, Rows, Site
from dropout_core.noise import keep_mask, normal, words

B = 4


def site(rows, kind="dropout", rate=0.2, index=3):
    return Site("s", index, kind, Ref("x"), rate, rows)


# a name: the site, the value's shape, one pass of its mask with the rows taken out, and the coordinates drawn
LAYOUTS = {
    "rows first": (site(Rows(0)), (B, 5), (1, 1, 5), (5,)),
    "a sequence": (site(Rows(0)), (B, 3, 5), (1, 1, 3, 5), (3, 5)),
    "rows second": (site(Rows(1)), (3, B, 5), (3, 1, 1, 5), (3, 5)),
    "rows last": (site(Rows(2)), (3, 5, B), (3, 5, 1, 1), (3, 5)),
    "steps folded into rows": (site(Rows(0, after=3)), (B * 3, 5), (1, 3, 5), (3, 5)),
    "views stacked over rows": (site(Rows(0, before=2)), (2 * B, 5), (2, 1, 5), (2, 5)),
    "folded on both sides": (site(Rows(0, 2, 3)), (2 * B * 3, 5), (2, 3, 5), (2, 3, 5)),
    "one number a row": (site(Rows(0)), (B,), (1, 1), ()),
    "channels of an image": (site(Rows(0), "feature_dropout"), (B, 5, 2, 3), (1, 1, 5, 1, 1), (5,)),
    "channels of folded frames": (
        site(Rows(0, after=2), "feature_dropout"),
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
    found = Masks(7, first, 5).apply(where, torch.ones(tiled), 1, 1 + num_passes, B)
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
    once = Masks(0, 0, 4).apply(where, value, 0, 4, B)
    assert torch.equal(once, Masks(0, 0, 4).apply(where, tiled, 0, 4, B))


def test_weights_have_one_mask_a_pass():
    weight, masks = torch.ones(5, 6), Masks(7, 10, 4)
    for number in range(4):
        kept = keep_mask(7, 3, torch.tensor([10 + number]), (5, 6), 0.2)[0]
        found = masks.apply(site(None), weight, number, number + 1, B)
        assert torch.equal(found, kept.float() / 0.8)


def test_sites_have_masks_of_their_own():
    masks, value = Masks(0, 0, 1), torch.ones(B, 50)
    a, b = (masks.apply(site(Rows(0), index=index), value, 0, 1, B) for index in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(("rate", "value"), [(0.0, 2.0), (1.0, 0.0)], ids=["keep all", "keep none"])
def test_the_extreme_rates_are_exact(rate, value):
    found = Masks(0, 0, 9).apply(site(Rows(0), rate=rate), torch.full((9 * B, 5), 2.0), 0, 9, B)
    assert (found == value).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_mask_keeps_the_dtype_and_the_draws(dtype):
    found = Masks(0, 0, 4).apply(site(Rows(0)), torch.ones(B, 8, dtype=dtype), 0, 4, B)
    assert found.dtype == dtype
    kept = keep_mask(0, 3, torch.arange(4), (8,), 0.2)
    assert torch.equal(found.unflatten(0, (4, B))[:, 0] != 0, kept)


def test_a_longer_sequence_contains_the_mask_of_a_shorter_one():
    short, long = (Masks(0, 0, 4).apply(site(Rows(0)), torch.ones(B, n, 8), 0, 4, B) for n in (5, 20))
    assert torch.equal(long[:, :5], short)


def test_each_row_is_compared_with_its_own_probability():
    """All rows of a pass share the draw, so that what is kept at a probability is kept at every larger one."""
    probability = torch.tensor([0.0, 0.3, 0.7, 1.0]).unsqueeze(1).expand(B, 50)
    found = Masks(0, 5, 9).apply(site(Rows(0), "bernoulli", 0.0), probability, 0, 9, B).unflatten(0, (9, B))
    drawn = words(0, 3, torch.arange(5, 14), (50,)).unsqueeze(1).double() / 2**32
    assert torch.equal(found, (drawn >= 1 - probability.double()).float())
    assert not found[:, 0].any()
    assert found[:, 3].all()
    assert (found.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("tiles", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_normal_draws_are_shared_by_rows_and_ignore_values(tiles, dtype):
    template = torch.full((tiles * B, 5), torch.nan, dtype=dtype)
    found = Masks(2, 5, 9).apply(site(Rows(0), "normal", 0.0), template, 0, 9, B)
    wanted = normal(2, 3, torch.arange(5, 14), (5,)).to(dtype)
    assert torch.equal(found.unflatten(0, (9, B)), wanted.unsqueeze(1).expand(9, B, 5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_an_unscaled_mask_has_the_type_of_its_template_so_that_the_network_scales_it_there(dtype):
    found = Masks(0, 0, 4).apply(site(Rows(0), "unscaled", 0.3), torch.zeros(B, 8, dtype=dtype), 0, 4, B)
    assert found.dtype == dtype
    assert torch.equal(found.unflatten(0, (4, B))[:, 0] != 0, keep_mask(0, 3, torch.arange(4), (8,), 0.3))
    assert set(found.flatten().tolist()) == {0.0, 1.0}
