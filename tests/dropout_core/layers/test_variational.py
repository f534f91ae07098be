import math

import pytest
import torch
from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.layers import VariationalConv2d, VariationalLinear
from dropout_core.layers.variational import kl_of_log_alpha

EULER = 0.5772156649015329


def test_the_kl_is_that_of_the_log_uniform_prior_to_the_fits_accuracy():
    """KL = E log|1 + √α·ε| − ½ log α + ½ (Euler + log 2), by quadrature; 0 for α → ∞ (Molchanov 2017, eq. 12)."""
    count = 400_000
    normal = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    for log_alpha in torch.arange(-8.0, 8.5, 0.5, dtype=torch.float64):
        expected = (1 + (0.5 * log_alpha).exp() * normal).abs().log().mean()
        exact = expected - 0.5 * log_alpha + 0.5 * (EULER + math.log(2))
        assert abs(kl_of_log_alpha(log_alpha) - exact) < 0.01
    far = kl_of_log_alpha(torch.tensor([-80.0, 80.0], dtype=torch.float64))
    assert far.tolist() == pytest.approx([0.63576 + 40, 0.0], abs=1e-12)


@pytest.mark.parametrize(("share", "shape"), [("weight", (4, 3)), ("unit", (4, 1)), ("layer", (1, 1))])
def test_the_penalty_counts_every_weight_whatever_shares_a_rate(share, shape):
    layer = VariationalLinear(3, 4, 0.2, share=share).double()
    assert layer.log_alpha.shape == shape
    one = kl_of_log_alpha(torch.tensor(math.log(0.25), dtype=torch.float64))
    assert float(layer.kl().detach()) == pytest.approx(12 * float(one), rel=1e-6)
    layer = VariationalConv2d(2, 3, 2, p=0.2, share=share).double()
    assert float(layer.kl().detach()) == pytest.approx(24 * float(one), rel=1e-6)


def test_a_rate_is_read_back_and_falls_where_data_are_sharp_and_rises_where_a_weight_does_nothing():
    """y = 3·x₁ exactly, and x₂ has nothing to do with it."""
    torch.manual_seed(0)
    layer = VariationalLinear(2, 1, 0.3, bias=False).double()
    assert layer.p.tolist()[0] == pytest.approx([0.3, 0.3], rel=1e-6)
    x = torch.randn(50, 2, dtype=torch.float64)
    optimiser = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(800):
        optimiser.zero_grad()
        (50 * (layer(x)[:, 0] - 3 * x[:, 0]).square().mean() + layer.kl() / len(x)).backward()
        optimiser.step()
    used, unused = layer.p[0].tolist()
    assert used < 0.01
    assert unused > 0.3
    assert float(layer.weight[0, 0].detach()) == pytest.approx(3, abs=0.1)


def test_rows_and_units_have_noise_of_their_own_in_training():
    layer = VariationalLinear(3, 50, 0.5, bias=False)
    y = layer(torch.ones(2, 3))
    assert not torch.equal(y[0], y[1])


@pytest.mark.parametrize(("kind", "plain"), [(VariationalLinear, nn.Linear), (VariationalConv2d, nn.Conv2d)])
def test_weights_of_torchs_layers_fit(kind, plain):
    arguments = (2, 3) if kind is VariationalLinear else (2, 3, 2)
    layer, other = kind(*arguments, p=0.1), plain(*arguments)
    missing, unexpected = layer.load_state_dict(other.state_dict(), strict=False)
    assert (missing, unexpected) == (["log_alpha"], [])
    x = torch.randn(2, 2) if kind is VariationalLinear else torch.randn(2, 2, 3, 3)
    assert torch.equal(layer.eval()(x), other(x))


def test_an_unknown_share_is_refused():
    with pytest.raises(InvalidInput, match="it is one of weight, unit, layer"):
        VariationalLinear(2, 2, 0.1, share="row")
