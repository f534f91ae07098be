"""Branches that a pass drops are not run where passes run one at a time: the same answers from fewer operations."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dropout_core.capture.capture import capture
from dropout_core.engine import chunks as chunk_sizes
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.layers import DropPath
from dropout_core.noise.philox import keep_mask

WIDTH, ROWS, PASSES = 6, 5, 40
ONE_BY_ONE = {"_CHUNK_BYTES": {"cpu": 1, "cuda": 1}, "_MIN_CHUNK_ROWS": ROWS}


class ByHand(nn.Module):
    """As libraries write it: a draw for each row, scaled in place."""

    def __init__(self, p):
        super().__init__()
        self.keep = 1 - p

    def forward(self, x):
        if not self.training:
            return x
        drawn = x.new_empty((x.shape[0], *[1] * (x.dim() - 1))).bernoulli_(self.keep)
        return x * drawn.div_(self.keep)


class Blocks(nn.Module):
    """x + drop(linear(dropout(x))), some times over."""

    def __init__(self, drop, inner=0.0, use=lambda x, branch: x + branch):
        super().__init__()
        self.first, self.head, self.use = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2), use
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.inner = nn.ModuleList([nn.Dropout(inner) for _ in range(3)])
        self.drops = nn.ModuleList([drop(0.5) for _ in range(3)])

    def forward(self, x):
        x = self.first(x)
        for layer, inner, drop in zip(self.layers, self.inner, self.drops, strict=True):
            x = self.use(x, drop(layer(inner(x)).tanh()))
        return self.head(x)


class Placed(Blocks):
    """The first sum's other term has no rows: it is no shortcut."""

    def __init__(self):
        super().__init__(DropPath, inner=0.3)
        self.place = nn.Parameter(torch.randn(1, WIDTH))

    def forward(self, x):
        return self.head(self.drops[0](self.layers[0](self.inner[0](self.first(x)))) + self.place * 2)


NETS = {
    "our own": (lambda: Blocks(DropPath), 3),
    "by hand": (lambda: Blocks(ByHand), 3),
    "with dropout inside": (lambda: Blocks(DropPath, inner=0.3), 3),
    "branch first": (lambda: Blocks(DropPath, use=lambda x, branch: branch + x), 3),
    "beside a constant": (Placed, 0),
    "a product is no sum": (lambda: Blocks(DropPath, use=lambda x, branch: x * (1 + branch)), 0),
    "a unit is no path": (lambda: Blocks(nn.Dropout), 0),
}
each_net = pytest.mark.parametrize("name", NETS)


@cache
def met(name):
    torch.manual_seed(0)
    net = NETS[name][0]().double().eval()
    return capture(net, torch.randn(4, 3, dtype=torch.float64)), torch.randn(ROWS, 3, dtype=torch.float64)


IID = PassOptions(sampling="iid")


def outputs(engine, program, x, scheme=IID):
    return torch.cat(
        [chunk.outputs for chunk in engine.run(program.weights, x, replace(scheme, passes=PASSES, seed=3))]
    )


def one_by_one(monkeypatch):
    for constant, value in ONE_BY_ONE.items():
        monkeypatch.setattr(chunk_sizes, constant, value)


def flops(engine, program, x):
    outputs(engine, program, x)
    with FlopCounterMode(display=False) as counter:
        outputs(engine, program, x)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "scheme",
    [PassOptions(sampling="iid"), PassOptions(sampling="balanced"), PassOptions(sampling="iid", masks="independent")],
    ids=str,
)
@each_net
def test_what_is_left_out_changes_no_answer(name, scheme, monkeypatch):
    program, x = met(name)
    wanted = outputs(Engine(program), program, x, scheme)
    one_by_one(monkeypatch)
    found = outputs(Engine(program), program, x, scheme)
    assert float((found - wanted).abs().max()) <= 1e-13 * float(wanted.abs().max())


@pytest.mark.parametrize("name", [name for name in NETS if name != "beside a constant"])
def test_a_branch_is_run_in_the_passes_that_keep_it(name, monkeypatch):
    """Exactly: two FLOPs a weight and row, for each branch of each pass that is kept, the head, and the first layer."""
    program, x = met(name)
    gates = [site.index for site in program.graph.sites if site.rate == 0.5]
    one_by_one(monkeypatch)
    engine, kept = Engine(program), 3 * PASSES
    if NETS[name][1]:
        kept = sum(int(keep_mask(3, gate, torch.arange(PASSES), (), 0.5).sum()) for gate in gates)
        assert 0 < kept < 3 * PASSES
    branch, head, first = 2 * ROWS * WIDTH**2, 2 * ROWS * WIDTH * 2, 2 * ROWS * 3 * WIDTH
    always = 1 if len(program.graph.sites) == 3 else 0  # the first branch has no noise inside: it is in the prefix
    if always:
        kept -= int(keep_mask(3, gates[0], torch.arange(PASSES), (), 0.5).sum()) if NETS[name][1] else PASSES
    assert flops(engine, program, x) == first + always * branch + kept * branch + PASSES * head


def test_many_passes_at_once_run_all_branches():
    program, x = met("our own")
    branch = 2 * ROWS * WIDTH**2
    wanted = 2 * ROWS * 3 * WIDTH + branch + PASSES * (2 * branch + 2 * ROWS * WIDTH * 2)
    assert flops(Engine(program), program, x) == wanted
