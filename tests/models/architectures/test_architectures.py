import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from dropout_core.layers import Dropout, SpatialDropout2d
from dropout_core.layers.base import RateLayer
from dropout_core.predict import predict
from mcdrop_models.architectures.cnn import SmallCNN
from mcdrop_models.architectures.mlp import GaussianMLP, gaussian_nll


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def images(num_rows, height=8, width=8):
    return torch.rand(num_rows, height, width, generator=torch.Generator().manual_seed(1)) * 16


@pytest.fixture
def cnn():
    return seeded(lambda: SmallCNN((8, 8), num_classes=10, brightest=16.0))


@pytest.fixture
def mlp():
    return seeded(lambda: GaussianMLP(torch.tensor([10.0, -2.0, 0.0]), torch.tensor([5.0, 0.5, 1.0])))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (5, 12)], ids=lambda size: f"{size[0]} by {size[1]}")
@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_an_image_of_any_size_becomes_one_logit_for_each_class(size, num_rows):
    net = seeded(lambda: SmallCNN(size, num_classes=4, brightest=1.0))

    assert net(torch.rand(num_rows, *size)).shape == (num_rows, 4)


def test_the_brightest_value_is_scaled_away(cnn):
    bright = seeded(lambda: SmallCNN((8, 8), num_classes=10, brightest=1.0))

    # division by a power of two is exact
    assert torch.equal(cnn(images(3)), bright(images(3) / 16))


def test_the_cnn_drops_whole_maps_and_units_before_its_head(cnn):
    drops = [(type(module), module.p) for module in cnn.modules() if isinstance(module, RateLayer)]

    assert drops == [(SpatialDropout2d, 0.1), (SpatialDropout2d, 0.1), (Dropout, 0.5)]


def test_rates_of_the_cnn_can_be_chosen():
    net = SmallCNN((8, 8), 10, 16.0, spatial=0.2, head=0.3)

    assert [module.p for module in net.modules() if isinstance(module, RateLayer)] == [0.2, 0.2, 0.3]


def test_the_state_of_the_cnn_holds_its_scale(cnn):
    other = SmallCNN((8, 8), num_classes=10, brightest=1.0)
    other.load_state_dict(cnn.state_dict())

    assert torch.equal(other.eval()(images(2)), cnn(images(2)))


def test_features_become_a_mean_and_a_log_variance(mlp):
    assert mlp(torch.randn(7, 3)).shape == (7, 2)
    assert mlp(torch.randn(0, 3)).shape == (0, 2)


def test_features_are_standardised_inside(mlp):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))

    standard = seeded(lambda: GaussianMLP(torch.zeros(3), torch.ones(3)))

    assert torch.equal(mlp(x), standard((x - mlp.center) / mlp.spread))
    assert torch.equal(mlp(mlp.center[None]), standard(torch.zeros(1, 3)))


def test_width_and_rate_of_the_mlp_can_be_chosen():
    net = GaussianMLP(torch.zeros(3), torch.ones(3), width=5, rate=0.1)

    assert [module.p for module in net.modules() if isinstance(module, RateLayer)] == [0.1, 0.1]
    assert [tuple(module.weight.shape) for module in net.modules() if isinstance(module, nn.Linear)] == [
        (5, 3),
        (5, 5),
        (2, 5),
    ]


def test_both_networks_are_captured_and_their_passes_differ(cnn, mlp):
    classified = predict(cnn, images(3), passes=8)
    regressed = predict(mlp, torch.randn(3, 3), passes=8, output="mean_and_log_variance")

    assert classified.method == regressed.method == "captured"
    assert (classified.variance > 0).any(1).all()
    assert (regressed.epistemic_variance > 0).all()


def test_the_likelihood_is_that_of_a_normal_distribution():
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    target = torch.randn(50, generator=generator, dtype=torch.float64)

    wanted = -Normal(outputs[:, 0], (outputs[:, 1] / 2).exp()).log_prob(target).mean()

    # the constant is a float32 of size 1, so half a unit of its last place
    assert abs(gaussian_nll(outputs, target) - wanted).item() < torch.finfo(torch.float32).eps


def test_the_likelihood_of_a_certain_hit_is_its_constant():
    assert gaussian_nll(torch.zeros(1, 2), torch.zeros(1)).item() == pytest.approx(
        0.5 * math.log(2 * math.pi), rel=1e-7
    )


def test_the_likelihood_is_best_at_the_true_mean_and_variance():
    target = torch.tensor([-2.0, 2.0, -2.0, 2.0])  # mean 0, variance 4

    best = torch.tensor([0.0, math.log(4.0)], requires_grad=True)
    gaussian_nll(best.expand(4, 2), target).backward()

    assert best.grad.abs().max() < 1e-6  # sums of four float32 numbers of size 1
