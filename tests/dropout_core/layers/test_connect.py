import math

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.layers import DropConnectConv1d, DropConnectConv2d, DropConnectLinear
from dropout_core.layers.connect import linear_by_row, noisy_moments

CONVOLUTIONS = {
    "strided, in groups": (DropConnectConv2d, nn.Conv2d, {"stride": 2, "groups": 2}, (2, 6, 5)),
    "dilated": (DropConnectConv2d, nn.Conv2d, {"dilation": 2, "padding": 1}, (2, 6, 5)),
    "reflected": (DropConnectConv2d, nn.Conv2d, {"padding": (1, 2), "padding_mode": "reflect"}, (2, 6, 5)),
    "padded to the same size": (DropConnectConv2d, nn.Conv2d, {"padding": "same"}, (2, 6, 5)),
    "over a sequence": (DropConnectConv1d, nn.Conv1d, {"padding": 1, "bias": False}, (2, 7)),
}
each_convolution = pytest.mark.parametrize(
    ("kind", "plain", "arguments", "row"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys()
)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_draw_for_all_connections_of_an_input_is_dropout_of_that_input():
    x, weight, bias = randn(5, 3, 4), randn(2, 4, seed=1), randn(2, seed=2)
    kept = (randn(5, 1, 4, seed=3) > 0) / 0.5
    assert torch.allclose(linear_by_row(x, weight * kept, bias), (x * kept) @ weight.T + bias)


def test_each_row_goes_through_its_own_weights():
    x, weights = randn(5, 3, 4), randn(5, 2, 4, seed=1)
    wanted = torch.stack([one @ weight.T for one, weight in zip(x, weights, strict=True)])
    assert torch.allclose(linear_by_row(x, weights), wanted)


@each_convolution
def test_each_row_goes_through_its_own_kernel(kind, plain, arguments, row):
    layer = kind(2, 4, 3, p=0.5, **arguments).double()
    x, masks = randn(3, *row), randn(3, *layer.weight.shape, seed=1)
    alone = plain(2, 4, 3, **arguments).double()
    wanted = []
    for one, mask in zip(x, masks, strict=True):
        alone.load_state_dict({**layer.state_dict(), "weight": layer.weight * mask})
        wanted.append(alone(one.unsqueeze(0)))
    assert torch.allclose(layer._by_row(x, layer.weight * masks), torch.cat(wanted))


@each_convolution
def test_a_convolution_takes_the_weights_of_torchs_and_answers_as_it_does(kind, plain, arguments, row):
    layer, other = kind(2, 4, 3, p=0.5, **arguments).double().eval(), plain(2, 4, 3, **arguments).double()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(randn(3, *row)), other(randn(3, *row)))


def test_a_linear_layer_takes_the_weights_of_torchs_and_answers_as_it_does():
    layer, other = DropConnectLinear(4, 2, 0.5).double().eval(), nn.Linear(4, 2).double()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(randn(3, 5, 4)), other(randn(3, 5, 4)))


def test_positions_of_a_row_share_its_weights_and_rows_do_not():
    layer = DropConnectLinear(4, 64, 0.5, bias=False).double()
    y = layer(torch.ones(3, 5, 4, dtype=torch.float64))
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert not torch.equal(y[0], y[1])


def test_one_mask_a_batch_is_shared_by_its_rows():
    layer = DropConnectLinear(4, 64, 0.5, bias=False, per="batch").double()
    y = layer(torch.ones(3, 4, dtype=torch.float64))
    assert torch.equal(y, y[:1].expand_as(y))


def test_passes_by_moments_keep_the_variance_of_each_unit_but_not_what_units_of_two_rows_share():
    """Of the same row twice: one network gives the same answer twice, and so do shared draws for each unit."""
    x = randn(1, 3).expand(2, 3)
    for monte_carlo in ("weights", "moments"):
        layer = DropConnectLinear(3, 2, 0.5, monte_carlo=monte_carlo).double()
        program = capture(layer, randn(2, 3, seed=1))
        engine = Engine(program)
        assert bool(engine.looped) == (monte_carlo == "weights")
        drawn = torch.cat(
            [chunk.outputs for chunk in engine.run(program.weights, x, PassOptions(16, 0, sampling="iid"))]
        )
        assert torch.allclose(drawn[:, 0], drawn[:, 1])


def test_normal_draws_have_the_given_moments_and_no_gradient_at_a_variance_of_zero():
    torch.manual_seed(0)
    variance = torch.tensor([0.0, 4.0], dtype=torch.float64).expand(20_000, 2)
    drawn = noisy_moments(torch.full_like(variance, 3.0), variance)
    assert (drawn[:, 0] == 3).all()
    assert abs(drawn[:, 1].mean() - 3) < 5 * 2 / math.sqrt(len(drawn))
    assert abs(drawn[:, 1].var() - 4) < 5 * 4 * math.sqrt(2 / len(drawn))
    edge = torch.tensor([0.0, 1.0], requires_grad=True)
    noisy_moments(torch.zeros(2), edge).sum().backward()
    assert edge.grad[0] == 0
    assert edge.grad.isfinite().all()


def test_moments_of_a_drop_probability_of_one_are_refused():
    with pytest.raises(InvalidInput, match="at least 0 and below 1"):
        DropConnectLinear(3, 2, 1.0).moments(torch.ones(1, 3))


@pytest.mark.parametrize("option", [{"per": "pass"}, {"monte_carlo": "mean"}])
def test_unknown_options_are_refused_with_the_known_ones(option):
    with pytest.raises(InvalidInput, match=r"it is one of (row, batch|weights, moments)"):
        DropConnectConv1d(2, 2, 1, p=0.5, **option)


def test_a_layer_shows_its_options():
    assert repr(DropConnectLinear(3, 2, 0.25)) == (
        "DropConnectLinear(in_features=3, out_features=2, bias=True, p=0.25, per=row, monte_carlo=weights)"
    )
