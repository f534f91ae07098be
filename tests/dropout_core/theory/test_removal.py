import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.theory import co_adaptation, dropout_least_squares
from tests.support.enumeration import randn

X, CLASSES = randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def network():
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), layers.Dropout(0.5), nn.Linear(5, 3)
    ).double()  # fmt: skip


def test_the_rise_is_that_of_a_network_without_the_weights_of_the_unit():
    model = network()
    whole = copy.deepcopy(model).eval()
    wanted = []
    for unit in range(5):
        without = copy.deepcopy(whole)
        without[4].weight.data[:, unit] = 0
        wanted.append(F.cross_entropy(without(X), CLASSES) - F.cross_entropy(whole(X), CLASSES))
    assert torch.allclose(co_adaptation(model, F.cross_entropy, X, CLASSES, model[2]), torch.stack(wanted))


def test_maps_and_features_of_sequences_are_removed_as_a_whole():
    x, total = randn(2, 3, 4), lambda output, _: output.sum()
    model = nn.Sequential(nn.Identity())
    assert torch.allclose(co_adaptation(model, total, x, None, model[0]), -x.sum((0, 2)))
    assert torch.allclose(co_adaptation(model, total, x, None, model[0], axis=2), -x.sum((0, 1)))
    assert torch.allclose(co_adaptation(model, total, x, None, model[0], axis=-1), -x.sum((0, 1)))


def test_a_layer_that_runs_twice_loses_the_unit_twice():
    layer = nn.Linear(4, 4).double()
    model = nn.Sequential(layer, layer)
    rises = co_adaptation(model, lambda output, _: output[:, 0].sum(), X, None, layer)
    without = layer(layer(X).index_fill(1, torch.tensor([0]), 0)).index_fill(1, torch.tensor([0]), 0)
    assert torch.allclose(rises[0], without[:, 0].sum() - model(X)[:, 0].sum())


def test_the_model_is_left_as_it_was():
    model = network().train()
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    assert not co_adaptation(model, F.cross_entropy, X, CLASSES, model[2]).requires_grad
    with pytest.raises(RuntimeError):
        co_adaptation(model, F.cross_entropy, X[:, 1:], CLASSES, model[2])
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_that_dropout_spread_are_missed_less():
    """Twice the same feature; alone, the first has all of the weight, and both networks fit."""
    x = X[:, :1].expand(6, 2)
    y, total = X[:, :1], F.mse_loss
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False).double())
    rises = {}
    weights = {"alone": torch.tensor([[1.0, 0.0]]), "spread": dropout_least_squares(x, y, 0.01)}
    for name, weight in weights.items():
        model[1].weight.data.copy_(weight)
        rises[name] = co_adaptation(model, total, x, y, model[0])
    power = y.square().mean()
    assert torch.allclose(rises["alone"], torch.stack([power, 0 * power]))
    assert torch.allclose(rises["spread"], (power / 4).expand(2), rtol=0.05)


def test_layers_that_cannot_lose_a_unit_are_refused():
    model = network()
    with pytest.raises(InvalidInput, match="is not part of the model"):
        co_adaptation(model, F.cross_entropy, X, CLASSES, nn.ReLU())
    with pytest.raises(InvalidInput, match=r"shape \[6, 5\]; a tensor with an axis 2 is wanted"):
        co_adaptation(model, F.cross_entropy, X, CLASSES, model[2], axis=2)
    recurrent = nn.LSTM(4, 2).double()
    with pytest.raises(InvalidInput, match=r"type tuple; a tensor with an axis 1 is wanted"):
        co_adaptation(recurrent, lambda output, _: output[0].sum(), X[None], None, recurrent)
    model.aside = nn.ReLU()
    model.forward = lambda x: model[0](x)[:, :3]
    with pytest.raises(InvalidInput, match="the layer does not run"):
        co_adaptation(model, F.cross_entropy, X, CLASSES, model.aside)
