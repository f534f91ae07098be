import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.layers import DropBlock1d, DropBlock2d, block
from dropout_core.layers.block import drop_block, window_product

ROWS = 4000


@st.composite
def blocks_and_maps(draw, axes=(1, 2, 3)):
    size = draw(st.integers(1, 7))
    return size, draw(st.lists(st.integers(size, size + 5), min_size=axes[0], max_size=axes[-1]))


def mean_draws(_x, shape, keep):
    return torch.full(shape, keep, dtype=torch.float64)


def opened(dropped, size, beyond):
    """The union of the whole size × size squares of what is dropped; outside of the map lies `beyond`."""
    wide = F.pad(dropped, [size - 1] * 4, value=beyond)
    whole = wide.unfold(-2, size, 1).unfold(-2, size, 1).all(-1).all(-1)
    covered = F.pad(whole, [size - 1] * 4).unfold(-2, size, 1).unfold(-2, size, 1).any(-1).any(-1)
    return covered[..., size - 1 : 1 - size or None, size - 1 : 1 - size or None]


def realised_rates(p, size, height, width):
    """The count-normalised form's drop rate of every element, from the number of whole blocks over it."""
    start = p / size**2 * height * width / ((height - size + 1) * (width - size + 1))
    over = [[sum(k <= i < k + size for k in range(n - size + 1)) for i in range(n)] for n in (height, width)]
    rates = [1 - (1 - start) ** (rows * columns) for rows, columns in itertools.product(*over)]
    return torch.tensor(rates, dtype=torch.float64).reshape(height, width)


@given(blocks_and_maps(axes=(1, 2)), st.integers(0, 99))
def test_a_window_product_multiplies_each_value_of_a_window_once(block_and_map, seed):
    size, spatial = block_and_map
    values = torch.rand(2, 3, *spatial, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    wanted = values
    for axis in range(2, values.dim()):
        wanted = wanted.unfold(axis, size, 1).prod(-1)
    assert torch.allclose(window_product(values, size), wanted, rtol=1e-12)


@given(blocks_and_maps(), st.floats(0.001, 0.999))
def test_every_element_is_kept_with_probability_one_minus_p(block_and_map, p):
    """A mask is a product of independent draws: with each of them at its mean it is the probability to be kept."""
    size, spatial = block_and_map
    x = torch.ones(2, 2, *spatial, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(block, "unscaled_mask", mean_draws)
        assert torch.allclose(drop_block(x, p, size), x, rtol=1e-11)


@pytest.mark.parametrize(("size", "spatial"), [(7, (14, 14)), (6, (6, 9)), (1, (3, 2))])
def test_corners_and_the_middle_are_dropped_at_the_rate_of_p(size, spatial):
    torch.manual_seed(0)
    p = 0.1
    dropped = drop_block(torch.ones(ROWS, 1, *spatial), p, size) == 0
    rates = dropped.double().mean(0)
    assert (rates - p).abs().max() < 5 * math.sqrt(p * (1 - p) / ROWS)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("count_normalized", [False, True])
def test_what_is_dropped_is_a_union_of_whole_blocks(size, count_normalized):
    """Which the border may cut in the exact form, and not in the paper's."""
    torch.manual_seed(0)
    dropped = drop_block(torch.ones(500, 2, 5, 8), 0.2, size, count_normalized=count_normalized) == 0
    assert dropped.any()
    assert torch.equal(opened(dropped, size, beyond=not count_normalized), dropped)
    assert size == 1 or not torch.equal(opened(dropped, size + 1, beyond=not count_normalized), dropped)


@pytest.mark.parametrize("count_normalized", [False, True])
def test_stretches_of_a_sequence_are_whole_too(count_normalized):
    torch.manual_seed(0)
    dropped = DropBlock1d(0.3, 3, count_normalized)(torch.ones(500, 1, 9)).flatten(1) == 0
    for row in dropped.tolist():
        ends = not count_normalized
        runs = [(gone, len(list(run))) for gone, run in itertools.groupby([ends, ends, *row, ends, ends])]
        assert all(length >= 3 for gone, length in runs[1:-1] if gone)


@pytest.mark.parametrize("count_normalized", [False, True])
def test_every_row_and_channel_has_blocks_of_its_own(count_normalized):
    torch.manual_seed(0)
    dropped = drop_block(torch.ones(200, 2, 3, 3), 0.3, 3, count_normalized=count_normalized)[..., 1, 1] == 0
    channels = {tuple(row) for row in dropped.tolist()}
    rows = {tuple(column) for column in dropped.reshape(-1, 2, 2)[..., 0].tolist()}
    assert len(channels) == len(rows) == 4


def test_by_counts_each_row_is_scaled_by_the_share_it_kept():
    torch.manual_seed(0)
    x = torch.rand(50, 3, 6, 5, dtype=torch.float64) + 0.5
    y = drop_block(x, 0.3, 2, count_normalized=True)
    kept = y != 0
    for row, out, alive in zip(x, y, kept, strict=True):
        assert torch.allclose(out[alive], row[alive] * row.numel() / alive.sum(), rtol=1e-12)
    assert len(kept.flatten(1).sum(1).unique()) > 10


def test_by_counts_a_row_that_lost_everything_is_zero_and_so_is_its_gradient():
    torch.manual_seed(0)
    x = torch.ones(40, 1, 3, 3, requires_grad=True)
    y = drop_block(x, 0.5, 3, count_normalized=True)
    y.sum().backward()
    gone = (y == 0).flatten(1).all(1)
    assert 0 < gone.sum() < 40
    assert torch.equal(y, (~gone).float().reshape(-1, 1, 1, 1).expand_as(y))
    assert torch.equal(x.grad, y)


def test_by_counts_the_realised_rate_is_the_documented_one():
    torch.manual_seed(0)
    wanted = realised_rates(0.1, 7, 14, 14)
    for documented in (wanted.mean(), wanted[0, 0], wanted[6, 6]):
        assert f" {documented:.4g} " in DropBlock1d.__doc__
    dropped = drop_block(torch.ones(ROWS, 1, 14, 14), 0.1, 7, count_normalized=True) == 0
    assert ((dropped.double().mean(0) - wanted).abs() < 5 * (wanted * (1 - wanted) / ROWS).sqrt()).all()


def test_by_counts_a_sequence_starts_blocks_at_its_own_rate():
    torch.manual_seed(0)
    start = 0.4 / 2 * 5 / 4
    over = torch.tensor([1, 2, 2, 2, 1])
    wanted = 1 - (1 - start) ** over
    dropped = drop_block(torch.ones(ROWS, 1, 5), 0.4, 2, count_normalized=True) == 0
    assert ((dropped.double().mean((0, 1)) - wanted).abs() < 5 * (wanted * (1 - wanted) / ROWS).sqrt()).all()


def test_by_counts_a_large_map_of_halves_is_counted_past_their_range():
    torch.manual_seed(0)
    y = drop_block(torch.ones(1, 2, 200, 200, dtype=torch.float16), 0.1, 7, count_normalized=True)
    share = (y != 0).double().mean()
    assert 0.8 < share < 1
    assert torch.allclose(y.max().double(), 1 / share, rtol=2**-10)


def test_halves_drop_at_a_rate_that_their_type_cannot_hold():
    """In bfloat16 the probability of keeping a place, 0.9998, would be 1."""
    torch.manual_seed(0)
    dropped = drop_block(torch.ones(ROWS, 1, 7, 7, dtype=torch.bfloat16), 0.01, 7) == 0
    rates = dropped.double().flatten(1).mean(1)
    assert abs(rates.mean() - 0.01) < 5 * rates.std() / math.sqrt(ROWS)


@torch.no_grad()
def test_passes_in_halves_drop_at_that_rate_too():
    x = torch.ones(2, 1, 7, 7, dtype=torch.bfloat16)
    program = capture(nn.Sequential(DropBlock2d(0.01, 7), nn.Flatten()), x)
    drawn = torch.cat(
        [chunk.outputs[:, 0] for chunk in Engine(program).run(program.weights, x, PassOptions(1000, 0, sampling="iid"))]
    )
    rates = (drawn == 0).double().mean(1)
    assert abs(rates.mean() - 0.01) < 5 * rates.std() / math.sqrt(1000)


@pytest.mark.parametrize("shape", [(2, 2, 6, 9), (2, 2, 9, 6), (2, 2, 6), (2, 7)])
@pytest.mark.parametrize("training", [True, False])
def test_maps_smaller_than_a_block_are_refused_with_both(shape, training):
    with pytest.raises(InvalidInput, match=r"shape \[2, .* blocks are of 7; .* at least 7 is wanted"):
        drop_block(torch.ones(shape), 0.1, 7, training)


@pytest.mark.parametrize("size", [0, -1, 2.0, 0.1, True, "3", None])
def test_a_block_that_is_none_is_refused(size):
    with pytest.raises(InvalidInput, match="a whole number of at least 1 is wanted"):
        DropBlock2d(0.1, size)


def test_a_layer_shows_its_options():
    assert repr(DropBlock2d(0.25, 7)) == "DropBlock2d(p=0.25, block_size=7, count_normalized=False)"
