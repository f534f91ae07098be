import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.layers import ConcreteDropout
from dropout_core.training.learned_rates import RateLearner, SharedRates, hypergradients, logits_of

LR = 0.1


def network(p=0.3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), ConcreteDropout(p), nn.BatchNorm1d(5), nn.Linear(5, 1), ConcreteDropout(p)
    ).double()


def batch(seed, rows=8):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return x, x.sum(1, keepdim=True)


def loss_ahead(net, train, validation):
    """The same by hand: a step of plain gradient descent under one seed, then the loss with the noise off."""
    net.train()
    torch.manual_seed(7)
    weights = [weight for name, weight in net.named_parameters() if not name.endswith("logit")]
    slopes = torch.autograd.grad(F.mse_loss(net(train[0]), train[1]), weights)
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            weight.sub_(LR * slope)
    return float(F.mse_loss(net.eval()(validation[0]), validation[1]).detach())


def test_hypergradients_are_finite_differences_of_the_loss_one_step_ahead():
    net, train, validation = network(), batch(1), batch(2)
    torch.manual_seed(7)
    found, value = hypergradients(net, F.mse_loss, train, validation, LR)
    assert set(found) == {"2.logit", "5.logit"}
    for name, gradient in found.items():
        ahead = []
        for move in (-1e-5, 0.0, 1e-5):
            moved = network()
            with torch.no_grad():
                moved.get_parameter(name).add_(move)
                # batch norm's running statistics are held while looking ahead
            moved[3].momentum = 0.0
            ahead.append(loss_ahead(moved, train, validation))
        assert value == pytest.approx(ahead[1], rel=1e-9)
        assert float(gradient) == pytest.approx((ahead[2] - ahead[0]) / 2e-5, rel=1e-4, abs=1e-9)
    assert all(float(gradient) != 0 for gradient in found.values())


def test_looking_ahead_changes_nothing():
    net = network()
    net[3].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    hypergradients(net, F.mse_loss, batch(1), batch(2), LR)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert [module.training for module in net] == [True, True, True, False, True, True]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_learner_moves_the_rates_against_their_gradients_and_nothing_else():
    net, train, validation = network(), batch(1), batch(2)
    torch.manual_seed(7)
    gradients, value = hypergradients(net, F.mse_loss, train, validation, LR)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    torch.manual_seed(7)
    assert RateLearner(net, F.mse_loss, LR, rate_lr=0.01).step(train, validation) == pytest.approx(value)
    for name, parameter in net.named_parameters():
        moved = (parameter.detach() - before[name]).sign()
        wanted = -gradients[name].sign() if name in gradients else torch.zeros_like(parameter)
        assert torch.equal(moved, wanted), name


def test_a_new_task_begins_at_the_mean_of_the_logits_that_earlier_ones_ended_with():
    shared = SharedRates()
    first, second, third = network(0.2), network(0.4), network(0.5)
    shared.begin(first)
    assert float(first[2].p.detach()) == pytest.approx(0.2)
    shared.end(first)
    shared.end(second)
    resumed = SharedRates()
    resumed.load_state_dict(shared.state_dict())
    resumed.begin(third)
    for name, logit in logits_of(third).items():
        ended = (logits_of(first)[name] + logits_of(second)[name]) / 2
        assert torch.allclose(logit, ended)


def test_networks_without_rates_or_with_others_are_refused():
    with pytest.raises(InvalidInput, match="has no ConcreteDropout"):
        RateLearner(nn.Linear(2, 2), F.mse_loss, LR)
    shared = SharedRates()
    shared.end(network())
    with pytest.raises(InvalidInput, match=r"has the rates \['logit'\]; earlier tasks had \['2.logit', '5.logit'\]"):
        shared.begin(ConcreteDropout(0.2))
