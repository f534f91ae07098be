import math

import pytest
import torch
from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.layers import ConcreteDropout, ConcreteSpatialDropout
from dropout_core.layers.concrete import concrete_mask


def test_the_relaxed_mask_is_the_formula_of_the_paper():
    for u, p, t in ((0.2, 0.3, 0.1), (0.9, 0.1, 0.5), (0.5, 0.5, 1.0)):
        odds = math.log(p) - math.log(1 - p) + math.log(u) - math.log(1 - u)
        wanted = 1 - 1 / (1 + math.exp(-odds / t))
        found = concrete_mask(torch.tensor(u, dtype=torch.float64), torch.tensor(p, dtype=torch.float64), t)
        assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_a_lower_temperature_is_nearer_to_a_bernoulli_draw():
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = concrete_mask(u, torch.tensor(0.3, dtype=torch.float64), 0.001)
    assert float((drawn < 0.5).double().mean()) == pytest.approx(0.3, abs=1e-3)
    assert float((drawn * (1 - drawn)).max()) <= 0.25
    assert float(((drawn > 0.01) & (drawn < 0.99)).double().mean()) < 0.01


def test_the_penalty_is_that_of_the_paper():
    layer = ConcreteDropout(0.2).double()
    weight, p = torch.tensor([[1.0, -2.0]], dtype=torch.float64), 0.2
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    divergence = 0.5**2 * 5 / (2 * (1 - p)) - 2 * entropy
    nats = layer.regularization([weight], features=2, num_examples=100, lengthscale=0.5)
    assert float(nats.detach()) == pytest.approx(divergence / 100, rel=1e-6)
    squared = layer.regularization([weight], features=2, num_examples=100, lengthscale=0.5, tau=4.0)
    assert float(squared.detach()) == pytest.approx(2 * divergence / (4 * 100), rel=1e-6)


def learned(num_examples):
    """The mean rate learned by a small network on y = 2x + 8 + N(0, 1), as in the authors' example."""
    torch.manual_seed(0)
    x = torch.randn(num_examples, 1)
    y = 2 * x + 8 + torch.randn(num_examples, 1)
    drops = [ConcreteDropout(0.1), ConcreteDropout(0.1)]
    net = nn.Sequential(drops[0], nn.Linear(1, 64), nn.ReLU(), drops[1], nn.Linear(64, 1))
    weights = [[net[1].weight], [net[4].weight]]
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(600):
        optimiser.zero_grad()
        penalty = sum(
            drop.regularization(read, features=read[0].shape[1], num_examples=num_examples)
            for drop, read in zip(drops, weights, strict=True)
        )
        (0.5 * (net(x) - y).square().mean() + penalty).backward()
        optimiser.step()
    return float(drops[1].p.detach())


def test_more_data_means_less_dropout():
    assert learned(20) > 2 * learned(2000)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_a_rate_stays_inside_its_limits_and_finite_at_the_ends(logit):
    layer = ConcreteDropout(0.1, limit=0.5)
    with torch.no_grad():
        layer.logit.fill_(logit)
    assert 0 < float(layer.p.detach()) <= 0.5
    wide = ConcreteDropout(0.1)
    with torch.no_grad():
        wide.logit.fill_(logit)
    assert 0 < float(wide.p.detach()) < 1
    for each in (layer, wide):
        y = each(torch.ones(100))
        y.sum().backward()
        assert y.isfinite().all()
        assert each.logit.grad.isfinite()


def test_a_channel_has_one_draw():
    y = ConcreteSpatialDropout(0.3)(torch.ones(2, 50, 3, 3))
    assert torch.equal(y, y[..., :1, :1].expand_as(y))
    assert len(y[..., 0, 0].unique()) > 50


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"p": 0.6, "limit": 0.5}, "above 0 and below its limit, 0.5"),
        ({"limit": 1.5}, "limit is 1.5; a drop probability is a number between 0 and 1"),
        ({"temperature": 0.0}, "temperature is 0.0; a number above 0"),
        ({"temperature": math.nan}, "temperature is nan"),
    ],
)
def test_options_without_a_meaning_are_refused(arguments, reason):
    with pytest.raises(InvalidInput, match=reason):
        ConcreteDropout(**arguments)


def test_a_layer_shows_the_rate_it_has_learned():
    assert "p=?" in repr(ConcreteDropout(0.2).to("meta"))
    assert repr(ConcreteDropout(0.2)) == "ConcreteDropout(p=0.2000, temperature=0.1, limit=1.0)"
