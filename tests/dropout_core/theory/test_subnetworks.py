import itertools
import math

import pytest
import torch
from torch import nn

from dropout_core import layers
from dropout_core.errors import InvalidInput
from dropout_core.theory import geometric_mean_of_subnetworks, num_subnetworks, subnetworks
from tests.support.enumeration import masks_of, randn


def geometric_mean(network, x, p):
    """By products of probabilities, each to the power of its mask's own."""
    product = math.prod(network(x * mask / (1 - p)).softmax(-1) ** chance for mask, chance in masks_of(x.shape[1], p))
    return product / product.sum(-1, keepdim=True)


@torch.no_grad()
def test_units_and_connections_have_as_many_subnetworks_as_are_drawn():
    torch.manual_seed(0)
    x, weight = randn(1, 4), randn(2, 2, seed=1)
    units = layers.Dropout(0.5)(x.expand(4000, 4))
    assert len(units.unique(dim=0)) == num_subnetworks(4) == 16
    connected = layers.DropConnectLinear(2, 2, 0.5, bias=False).double()
    connected.weight.copy_(weight)
    assert len(connected(x[:, :2].expand(4000, 2)).unique(dim=0)) == num_subnetworks(0, weight.numel()) == 16


def test_units_and_connections_multiply_and_large_numbers_are_exact():
    both = itertools.product(*[(0, 1)] * 3, *[(0, 1)] * 4)
    assert num_subnetworks(3, 4) == len(list(both))
    assert num_subnetworks(0) == 1
    assert num_subnetworks(1000) == 2**1000


@pytest.mark.parametrize("numbers", [(-1,), (2.0,), (True,), (3, -2), (3, 1.5)])
def test_numbers_of_what_is_dropped_that_are_none_are_refused(numbers):
    with pytest.raises(InvalidInput, match="a whole number of at least 0 is wanted"):
        num_subnetworks(*numbers)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_all_masks_come_once_with_their_probabilities(p):
    masks, probabilities = subnetworks(5, p)
    wanted = {tuple(mask.tolist()): chance for mask, chance in masks_of(5, p)}
    came = {tuple(mask): chance for mask, chance in zip(masks.double().tolist(), probabilities.tolist(), strict=True)}
    assert came == pytest.approx(wanted, abs=1e-15)
    assert masks[6].tolist() == [False, True, True, False, False]


def test_no_units_have_one_mask_and_too_many_are_refused():
    masks, probabilities = subnetworks(0, 0.3)
    assert masks.shape == (1, 0)
    assert probabilities.tolist() == [1.0]
    with pytest.raises(InvalidInput, match="at most 20 units are wanted"):
        subnetworks(21, 0.3)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.8])
def test_weight_scaling_is_the_geometric_mean_of_the_ensemble_of_one_softmax_layer(p):
    x, layer = randn(3, 6), nn.Linear(6, 4).double()
    mean = geometric_mean_of_subnetworks(layer, x, p).exp()
    assert torch.allclose(mean, geometric_mean(layer, x, p), rtol=1e-12)
    assert torch.allclose(mean, layer(x).softmax(-1), rtol=1e-12)


def test_weight_scaling_is_exact_over_more_masks_than_are_taken_at_a_time():
    x, layer = randn(2, 12), nn.Linear(12, 3).double()
    assert torch.allclose(geometric_mean_of_subnetworks(layer, x, 0.4), layer(x).log_softmax(-1), rtol=1e-11)


def test_weight_scaling_only_comes_near_where_a_nonlinear_layer_lies_behind():
    torch.manual_seed(0)
    x, network = randn(3, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    mean = geometric_mean_of_subnetworks(network, x, 0.5).exp()
    assert torch.allclose(mean, geometric_mean(network, x, 0.5), rtol=1e-12)
    assert (mean - network(x).softmax(-1)).abs().max() > 0.01


def test_the_geometric_mean_keeps_its_input_s_type_and_takes_no_rows():
    mean = geometric_mean_of_subnetworks(nn.Linear(3, 2), torch.empty(0, 3), 0.5)
    assert mean.shape == (0, 2)
    assert mean.dtype == torch.float32


def test_inputs_of_another_shape_and_a_rate_of_one_are_refused():
    with pytest.raises(InvalidInput, match=r"shape \[2, 3, 4\]; \[B, C\] is wanted"):
        geometric_mean_of_subnetworks(nn.Identity(), randn(2, 3, 4), 0.5)
    with pytest.raises(InvalidInput, match="at least 0 and below 1"):
        geometric_mean_of_subnetworks(nn.Identity(), randn(2, 3), 1.0)
