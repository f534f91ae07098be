import math

import pytest
import torch
from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.layers import AdaptiveDropout


def test_no_slope_is_dropout_at_one_rate_without_rescaling():
    torch.manual_seed(0)
    layer = AdaptiveDropout(nn.Identity(), alpha=0.0, beta=math.log(0.7 / 0.3))
    z = torch.full((40_000,), 2.0)
    y = layer(z)
    assert set(y.tolist()) == {0.0, 2.0}
    assert abs(float((y == 0).double().mean()) - 0.3) < 5 * math.sqrt(0.21 / len(z))
    assert torch.allclose(layer.eval()(z), 0.7 * z)


def test_strong_units_are_kept_and_weak_ones_dropped():
    torch.manual_seed(0)
    layer = AdaptiveDropout(nn.Identity(), alpha=50.0)
    assert torch.equal(layer(torch.tensor([-2.0, 2.0])), torch.tensor([0.0, 2.0]))


@pytest.mark.parametrize("option", [{"alpha": math.inf}, {"beta": math.nan}])
def test_options_without_a_meaning_are_refused(option):
    with pytest.raises(InvalidInput, match="a finite number is wanted"):
        AdaptiveDropout(nn.ReLU(), **option)
