"""Which weights enter the penalty of a ConcreteDropout, and where that cannot be told."""

import re

import pytest
from torch import nn

from dropout_core.errors import InvalidInput
from dropout_core.layers import ConcreteDropout, ConcreteSpatialDropout, StochasticDepth, VariationalLinear
from dropout_core.training.penalties import regularization
from tests.support.penalties import Net, divergence, kl, squares


def linear(inputs=3, outputs=3):
    return nn.Linear(inputs, outputs)


def attention(net, x):
    y = net.drop(x)
    return net.q(y) * net.k(y) + net.v(y.view(y.size(0), -1))


def doubled(net, x):
    y = net.drop(x)
    return net.cell(y) + net.cell(y)


def differing(net, x):
    y = net.drop(x)
    return net.a(y.flatten(1)) + net.b(y).flatten(1)


def unrolled(net, x):
    for _ in range(4):
        x = net.cell(net.drop(x)).relu()
    return x


def optional(net, x, mask=None):
    return net.cell(net.drop(x)) if mask is None else net.drop(x) * mask


class Optional(Net):
    def forward(self, x, mask=None):
        return optional(self, x, mask)


FOLLOWED = {
    "convolutions": (
        nn.Sequential(ConcreteSpatialDropout(0.2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3, groups=2)),
        lambda net: divergence(0.2, 1, squares(net[3]), 6),
    ),
    "transposed": (
        nn.Sequential(ConcreteSpatialDropout(0.2), nn.ConvTranspose1d(6, 4, 3)),
        lambda net: divergence(0.2, 1, squares(net[1]), 6),
    ),
    "flattened": (
        nn.Sequential(ConcreteDropout(0.2), nn.Flatten(), linear(12, 2)),
        lambda net: divergence(0.2, 1, squares(net[2]), 12),
    ),
    "one value, several readers": (
        Net(
            attention,
            drop=ConcreteDropout(0.2), q=linear(), k=linear(), v=linear(),
        ),
        lambda net: divergence(0.2, 1, squares(net.q, net.k, net.v), 3),
    ),
    "one dropout, two values": (
        Net(lambda net, x: net.two(net.drop(net.one(net.drop(x)))), drop=ConcreteDropout(0.2), one=linear(),
            two=linear(3, 7)),
        lambda net: divergence(0.2, 1, squares(net.one), 3) + divergence(0.2, 1, squares(net.two), 3),
    ),
    "one dropout, two values, readers that differ": (
        Net(lambda net, x: net.a(net.drop(x).flatten(1)) + net.b(net.drop(x)).flatten(1), a=linear(6, 6), b=linear(),
            drop=ConcreteDropout(0.2)),
        lambda net: divergence(0.2, 1, squares(net.a), 6) + divergence(0.2, 1, squares(net.b), 3),
    ),
    "a loop over steps": (
        Net(unrolled, drop=ConcreteDropout(0.2), cell=linear()),
        lambda net: divergence(0.2, 1, squares(net.cell), 3),
    ),
    "the same value twice": (
        Net(doubled, drop=ConcreteDropout(0.2), cell=linear()),
        lambda net: divergence(0.2, 1, squares(net.cell), 3),
    ),
    "an argument that is not given": (
        Optional(None, drop=ConcreteDropout(0.2), cell=linear()),
        lambda net: divergence(0.2, 1, squares(net.cell), 3),
    ),
    "a computed weight": (
        nn.Sequential(ConcreteDropout(0.2), nn.utils.parametrizations.weight_norm(linear())),
        lambda net: divergence(0.2, 1, squares(net[1]), 3),
    ),
    "a variational reader": (
        nn.Sequential(ConcreteDropout(0.2), VariationalLinear(3, 4, 0.1)),
        lambda net: divergence(0.2, 1, squares(net[1]), 3) + kl(net[1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_weights_that_read_a_dropout_are_found(name):
    net, by_hand = FOLLOWED[name]
    assert float(regularization(net, 1, lengthscale=1.0).detach()) == pytest.approx(by_hand(net), rel=1e-5)


def branching(net, x):
    return net.cell(net.drop(x)) if x.sum() > 0 else x


REFUSED = {
    "the output": (nn.Sequential(linear(), ConcreteDropout()), "'1'", "its value is the network's output"),
    "an activation": (nn.Sequential(ConcreteDropout(), nn.GELU(), linear()), "'0'", r"1 \(GELU\) reads its value"),
    "a sum": (
        Net(lambda net, x: net.cell(net.drop(x) + x), drop=ConcreteDropout(), cell=linear()),
        "'drop'", "add reads its value",
    ),
    "units of maps": (
        nn.Sequential(ConcreteDropout(), nn.Conv2d(3, 3, 1)),
        "'0'", r"1 \(Conv2d\) reads its value, where nn.Linear is wanted",
    ),
    "maps of units": (
        nn.Sequential(ConcreteSpatialDropout(), nn.Flatten(), linear(12)),
        "'0'", r"2 \(Linear\) reads its value, where a convolution is wanted",
    ),
    "readers of one value that differ": (
        Net(differing, a=linear(6, 6), b=linear(), drop=ConcreteDropout()),
        "'drop'", r"its readers have \[3, 6\] inputs",
    ),
    "one weight behind two": (
        Net(lambda net, x: net.cell(net.a(x)) + net.cell(net.b(x)), a=ConcreteDropout(), b=ConcreteDropout(),
            cell=linear()),
        "'b'", "the weight of cell is read behind a, too",
    ),
    "nobody": (
        Net(lambda net, x: net.cell(x.view(net.drop(x).shape)), drop=ConcreteDropout(), cell=linear()),
        "'drop'", "nothing reads its value",
    ),
    "a layer that is not called": (
        Net(lambda net, x: net.cell(x), drop=ConcreteDropout(), cell=linear()),
        "'drop'", "the forward does not call it",
    ),
    "inside of another layer": (
        nn.Sequential(StochasticDepth(nn.Sequential(ConcreteDropout(), linear()), 0.5)),
        "'0.branch.0'", r"0 \(StochasticDepth\) is not traced",
    ),
    "no trace": (Net(branching, drop=ConcreteDropout(), cell=linear()), "'drop'", "torch.fx cannot trace the network"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_where_the_readers_cannot_be_told_the_layer_is_named(name):
    net, layer, reason = REFUSED[name]
    message = rf"the penalty of {layer} cannot be found: {reason}.*; name it in by_hand and add its own regularization"
    with pytest.raises(InvalidInput, match=re.compile(message, re.DOTALL)):
        regularization(net, 10)
    drops = [module for module in net.modules() if isinstance(module, ConcreteDropout)]
    with pytest.raises(InvalidInput, match="nothing has a penalty"):
        regularization(net, 10, by_hand=drops)
    net.add_module("beside", VariationalLinear(3, 3, 0.1))
    if isinstance(net, Net):
        assert float(regularization(net, 10, by_hand=drops).detach()) == pytest.approx(kl(net.beside) / 10, rel=1e-5)


def test_a_weight_in_two_modules_behind_two_dropouts_is_refused():
    net = nn.Sequential(ConcreteDropout(), linear(), ConcreteDropout(), linear())
    net[3].weight = net[1].weight
    with pytest.raises(InvalidInput, match="the weight of 3 is read behind 0, too"):
        regularization(net, 10)


def test_a_computed_weight_behind_two_dropouts_is_refused():
    cell = nn.utils.parametrizations.weight_norm(linear())
    net = nn.Sequential(ConcreteDropout(), cell, ConcreteDropout(), cell)
    with pytest.raises(InvalidInput, match="the weight of 1 is read behind 0, too"):
        regularization(net, 10)
