"""Thinned passes are the dense ones; what follows compares them in float64, where only rounding may differ."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.engine.thinning import Chain, with_chains
from dropout_core.engine.tuning import Tuning
from dropout_core.graph.split import split

ALWAYS, NEVER = Tuning(1, 1), Tuning(10**9, 10**9)


def mlp(*rates, activation=nn.ReLU, bias=True):
    """Linear layers of 12 units, each but the last with an activation and a dropout."""
    layers = [layer for rate in rates for layer in (nn.Linear(12, 12, bias=bias), activation(), nn.Dropout(rate))]
    return nn.Sequential(*layers, nn.Linear(12, 3, bias=bias))


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop = nn.Linear(12, 12), nn.Dropout(0.5)
        self.mean, self.spread = nn.Linear(12, 2), nn.Linear(12, 2)

    def forward(self, x):
        h = self.drop(self.body(x))
        return torch.cat([self.mean(h), self.spread(h)], dim=1)


class NoisySource(nn.Module):
    """The first site of the chain reads what another site made."""

    def __init__(self):
        super().__init__()
        self.first, self.net = nn.Dropout(0.3), mlp(0.5, 0.5)

    def forward(self, x):
        return self.net(self.first(x * 2).cos())


class Sequence(nn.Module):
    """A mask that is another one at each step cannot be thinned."""

    def __init__(self):
        super().__init__()
        self.net = mlp(0.5)

    def forward(self, x):
        return self.net(x.unsqueeze(1).expand(-1, 2, -1) * 1.5).mean(1)


NETS = {
    "one layer": (lambda: mlp(0.5), [1]),
    "three layers": (lambda: mlp(0.5, 0.2, 0.7), [3]),
    "no bias": (lambda: mlp(0.5, 0.5, bias=False), [2]),
    "gelu": (lambda: mlp(0.5, 0.1, activation=nn.GELU), [2]),
    "sigmoid": (lambda: mlp(0.5, 0.1, activation=nn.Sigmoid), [2]),
    "softmax is not pointwise": (lambda: mlp(0.5, 0.1, activation=lambda: nn.Softmax(1)), [1, 1]),
    "everything dropped": (lambda: mlp(0.5, 1.0), [2]),
    "two readers": (TwoReaders, []),
    "a noisy source": (NoisySource, [2]),
    "a sequence": (Sequence, []),
}
each_net = pytest.mark.parametrize(("make", "links"), NETS.values(), ids=NETS.keys())


@cache
def made(make):
    torch.manual_seed(0)
    net = make().double().eval()
    x = torch.randn(9, 12, dtype=torch.float64)
    return net, capture(net, x), x


IID = PassOptions(sampling="iid")


def outputs(engine, weights, x, passes=40, scheme=IID, seed=3):
    return torch.cat([chunk.outputs for chunk in engine.run(weights, x, replace(scheme, passes=passes, seed=seed))])


def assert_same(found, wanted):
    assert float((found - wanted).abs().max()) <= 1e-13 * float(wanted.abs().max())


@each_net
def test_chains_are_found_where_one_layer_reads_a_dropped_row(make, links):
    _, program, _ = made(make)
    widths = {} if make is Sequence else {site.name: 12 for site in program.graph.sites}
    nodes = with_chains(split(program.graph).suffix, [program.graph.output], program.weights, widths)
    assert [len(node.links) for node in nodes if isinstance(node, Chain)] == links


@pytest.mark.parametrize("sampling", ["iid", "balanced"])
@pytest.mark.parametrize("rows", [1, 9])
@each_net
def test_thinned_passes_are_the_dense_passes(make, links, rows, sampling):
    _, program, x = made(make)
    scheme = PassOptions(sampling=sampling)
    thin = outputs(Engine(program, ALWAYS), program.weights, x[:rows], scheme=scheme)
    dense = outputs(Engine(program, NEVER), program.weights, x[:rows], scheme=scheme)
    assert_same(thin, dense)
    assert len(dense.flatten(1).unique(dim=0)) > 3 or 1.0 in [site.rate for site in program.graph.sites]


def linear_flops(engine, program, x):
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        outputs(engine, program.weights, x, passes=32)
    return counter.get_total_flops()


def test_dropped_units_are_not_computed():
    """At p = ¾ a hidden layer has (¼ + padding)² of its products: far less than half."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 400), nn.Dropout(0.75), nn.Linear(400, 400), nn.Dropout(0.75), nn.Linear(400, 2))
    program, x = capture(net.eval(), torch.randn(4, 4)), torch.randn(50, 4)
    thin, dense = Engine(program, ALWAYS), Engine(program, NEVER)
    for engine in (thin, dense):
        outputs(engine, program.weights, x)
    assert linear_flops(thin, program, x) < 0.15 * linear_flops(dense, program, x)


def test_thinned_weights_follow_a_live_model():
    """Changed in place, under no_grad as optimisers do, and replaced."""
    _, program, x = made(NETS["no bias"][0])
    engine, weights = Engine(program, ALWAYS), dict(program.weights)
    outputs(engine, weights, x)
    name = next(name for name in weights if name.endswith("3.weight"))
    live = weights[name].clone()
    weights[name] = live
    outputs(engine, weights, x)
    live.mul_(-1.5)
    assert_same(outputs(engine, weights, x), outputs(Engine(program, NEVER), weights, x))
    weights[name] = torch.randn_like(weights[name])
    assert_same(outputs(engine, weights, x), outputs(Engine(program, NEVER), weights, x))


def test_independent_masks_are_never_thinned():
    _, program, x = made(NETS["no bias"][0])
    scheme = PassOptions(sampling="balanced", masks="independent")
    found = outputs(Engine(program, ALWAYS), program.weights, x, scheme=scheme)
    assert torch.equal(found, outputs(Engine(program, NEVER), program.weights, x, scheme=scheme))
    assert not torch.equal(found[:, 0], outputs(Engine(program, NEVER), program.weights, x[:1])[:, 0])


def test_a_row_of_nan_spoils_itself_only():
    _, program, x = made(NETS["no bias"][0])
    spoilt = x.clone()
    spoilt[1, 0] = torch.nan
    clean, found = (outputs(Engine(program, ALWAYS), program.weights, rows) for rows in (x, spoilt))
    assert found[:, 1].isnan().all()
    assert torch.equal(found[:, 2:], clean[:, 2:])


class Shortcut(nn.Module):
    """The head reads what stands within the trunk's chain."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = mlp(0.5), mlp(0.5), nn.Linear(3, 2)
        self.between, self.last = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 12)), nn.Dropout(0.5)

    def forward(self, x):
        h = self.first(x)
        return self.head(self.last(self.second(self.between(h.tanh()).sin())) + h)


def test_a_value_that_is_wanted_ends_a_chain():
    _, program, x = made(Shortcut)
    scheme = PassOptions(sampling="balanced", branches=4)
    found, wanted = (outputs(Engine(program, tuning), program.weights, x, scheme=scheme) for tuning in (ALWAYS, NEVER))
    assert_same(found, wanted)
