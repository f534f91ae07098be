import math

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.layers import DropPath, StochasticDepth, linear_depth_rates
from dropout_core.layers.path import drop_path
from dropout_core.verify import is_the_model, verify

DRAWS = 2000


class Counted(nn.Module):
    """x → 2x, and how often that was computed; draws random numbers of its own if told to."""

    def __init__(self, draws=False):
        super().__init__()
        self.calls, self.draws = 0, draws

    def forward(self, x):
        self.calls += 1
        return 2 * x + (0 * torch.rand(3).sum() if self.draws else 0)


@pytest.mark.parametrize(("classic", "scale"), [(False, 1 / 0.7), (True, 1.0)])
def test_each_row_of_a_branch_is_whole_or_gone(classic, scale):
    torch.manual_seed(0)
    x = torch.rand(40, 3, 2, dtype=torch.float64) + 0.5
    y = drop_path(x, 0.3, classic=classic)
    gone = (y == 0).flatten(1).all(1)
    assert 0 < gone.sum() < 40
    assert torch.allclose(y[~gone], scale * x[~gone], rtol=1e-15)


@pytest.mark.parametrize("classic", [False, True])
def test_one_draw_a_batch_is_shared_by_its_rows(classic):
    torch.manual_seed(0)
    outputs = [drop_path(torch.ones(6, 2), 0.5, per="batch", classic=classic) for _ in range(30)]
    assert all((y == y[0, 0]).all() for y in outputs)
    assert len({float(y[0, 0]) for y in outputs}) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_classic_form_keeps_halves_to_the_bit(dtype):
    torch.manual_seed(0)
    x = torch.rand(40, 5).to(dtype) + 0.5
    y = drop_path(x, 0.3, classic=True)
    assert torch.equal(torch.where(y == 0, x, y), x)


@pytest.mark.parametrize("classic", [False, True])
def test_a_dropped_branch_is_not_computed(classic):
    torch.manual_seed(0)
    branch, p = Counted(), 0.3
    block, x = StochasticDepth(branch, p, per="batch", classic=classic), torch.ones(2, 1, dtype=torch.float64)
    added = 2 * (1 if classic else 1 / (1 - p))
    kept = 0
    for _ in range(DRAWS):
        before = branch.calls
        y = block(x)
        computed = branch.calls - before
        assert torch.allclose(y, x + computed * added, rtol=1e-15)
        kept += computed
    assert abs(kept / DRAWS - (1 - p)) < 5 * math.sqrt(p * (1 - p) / DRAWS)


def test_the_draw_comes_before_the_branch():
    def fates(draws):
        fates = []
        for seed in range(30):
            torch.manual_seed(seed)
            fates.append(bool((StochasticDepth(Counted(draws), 0.5, per="batch")(torch.ones(1)) == 1).all()))
        return fates

    assert fates(draws=True) == fates(draws=False)
    assert len(set(fates(draws=True))) == 2


def test_a_dropped_branch_leaves_no_gradient_and_no_batch_statistics():
    torch.manual_seed(0)
    x, seen = torch.randn(4, 3), set()
    for _ in range(20):
        block = StochasticDepth(nn.BatchNorm1d(3), 0.5, per="batch")
        y = block(x)
        if torch.equal(y, x):
            assert not y.requires_grad
        else:
            y.sum().backward()
            assert block.branch.weight.grad is not None
        assert int(block.branch.num_batches_tracked) == int(y.requires_grad)
        seen.add(y.requires_grad)
    assert seen == {True, False}


def test_rows_are_drawn_apart_and_the_branch_is_computed_once():
    torch.manual_seed(0)
    branch = Counted()
    y = StochasticDepth(branch, 0.5)(torch.ones(40, 2))
    assert branch.calls == 1
    assert set(y.flatten().tolist()) == {1.0, 5.0}


@pytest.mark.parametrize("per", ["row", "batch"])
@pytest.mark.parametrize("classic", [False, True])
def test_at_a_rate_of_one_the_branch_is_never_computed_in_training(per, classic):
    branch, x = Counted(), torch.ones(2, 3)
    block = StochasticDepth(branch, 1.0, per, classic)
    assert all(torch.equal(block(x), x) for _ in range(20))
    assert branch.calls == 0
    assert torch.equal(block.eval()(x), x if classic else 3 * x)


@pytest.mark.parametrize("per", ["row", "batch"])
@pytest.mark.parametrize("classic", [False, True])
@torch.no_grad()
def test_a_pass_drops_the_branch_for_all_rows_or_for_none(per, classic):
    """Also with a branch whose number of rows the capture has to work out."""
    branch = nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 3), nn.Unflatten(0, (-1, 2)))
    net = nn.Sequential(StochasticDepth(branch, 0.4, per, classic), nn.Flatten()).double()
    x = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    program = capture(net, x)
    engine = Engine(program)
    is_the_model(program, net, x)
    verify(program, engine, x, "mean")
    assert not engine.looped
    drawn = torch.cat([chunk.outputs for chunk in engine.run(program.weights, x, PassOptions(40, 0, sampling="iid"))])
    scale = 1 if classic else 1 / 0.6
    without, kept = x.flatten(1), (x + scale * branch(x)).flatten(1)
    fates = {tuple(torch.allclose(one, state) for state in (without, kept)) for one in drawn}
    assert fates == {(True, False), (False, True)}


@pytest.mark.parametrize("branch", [nn.Linear(4, 1), nn.Linear(4, 5), nn.Unflatten(1, (2, 2)), nn.Flatten(0)])
@pytest.mark.parametrize("training", [True, False])
def test_a_branch_that_changes_the_shape_is_refused(branch, training):
    with pytest.raises(InvalidInput, match=r"the branch's output has shape .*; \[3, 4\], as x, is wanted"):
        StochasticDepth(branch, 0.5).train(training)(torch.ones(3, 4))


def test_rates_in_equal_steps_begin_at_zero_and_end_at_the_last():
    assert linear_depth_rates(5, 0.5) == pytest.approx([0, 0.125, 0.25, 0.375, 0.5], abs=1e-15)
    assert linear_depth_rates(1, 0.5) == [0.0]


def test_rates_as_of_huang_begin_above_zero():
    assert linear_depth_rates(5, 0.5, form="huang") == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-15)
    assert linear_depth_rates(1, 0.5, form="huang") == [0.5]


@pytest.mark.parametrize("form", ["linspace", "huang"])
@pytest.mark.parametrize("last", [0.0, 0.1, 1.0])
def test_rates_are_drop_probabilities_for_any_depth(form, last):
    for depth in range(2, 60):
        rates = linear_depth_rates(depth, last, form)
        assert len(rates) == depth
        assert rates[-1] == last
        assert [DropPath(rate).p for rate in rates] == sorted(rates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.5), "num_blocks is 0; a whole number of at least 1 is wanted"),
        ((2.0, 0.5), "num_blocks is 2.0"),
        ((True, 0.5), "num_blocks is True"),
        ((3, 1.5), "last is 1.5; a drop probability is a number between 0 and 1"),
        ((3, 0.5, "cosine"), "form is 'cosine'; it is one of linspace, huang"),
    ],
)
def test_rates_without_a_meaning_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        linear_depth_rates(*arguments)


@pytest.mark.parametrize("layer", [DropPath, lambda p, per: StochasticDepth(nn.Identity(), p, per)])
def test_draws_for_anything_else_are_refused(layer):
    with pytest.raises(InvalidInput, match="per is 'pass'; it is one of row, batch"):
        layer(0.5, "pass")


def test_a_layer_shows_its_options():
    assert repr(DropPath(0.25)) == "DropPath(p=0.25, per=row, classic=False)"
    assert "p=0.25, per=batch, classic=True" in repr(StochasticDepth(nn.Identity(), 0.25, "batch", classic=True))
