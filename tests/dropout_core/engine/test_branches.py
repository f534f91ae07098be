from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropout_core.capture.capture import capture
from dropout_core.engine import chunks as chunk_sizes
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.engine.tuning import Tuning
from dropout_core.errors import InvalidInput
from dropout_core.graph.program import Site
from dropout_core.graph.split import split, split_last
from dropout_core.noise.balanced import balanced_words
from dropout_core.noise.philox import drop_threshold, keep_mask
from tests.support.captured import captured
from tests.support.nets import LastLayer, NoisyWeights, ParallelBranches, TwoSites
from tests.support.twins import TWINS

BATCHED = [kind for kind in TWINS if kind is not NoisyWeights]
each_net = pytest.mark.parametrize("kind", BATCHED, ids=lambda kind: kind.__name__)


def last_sites(program):
    """The places of the sites in the head."""
    head = split_last(split(program.graph).suffix, program.graph.output).suffix
    return [site.index for site in head if isinstance(site, Site)]


def mask(net, site, number, sampling):
    """One pass of one site, straight from the noise of seed 5."""
    shape, rate = net.sites[site]
    if sampling == "iid":
        kept = keep_mask(5, site, torch.tensor([number]), shape, rate)[0]
    else:
        kept = balanced_words(5, site, range(number, number + 1), shape)[0] >= drop_threshold(rate)
    return kept.to(net.dtype) / (1 - rate)


def outputs(engine, one, x, passes, scheme):
    rows = {}
    for chunk in engine.run(one.program.weights, x, replace(scheme, passes=passes, seed=5)):
        rows.setdefault(chunk.index, []).append(chunk.outputs)
    return torch.cat([torch.cat(parts) for parts in rows.values()], dim=1)


def wanted(one, x, passes, branches, sampling):
    """A trunk's noise is that of its own number, shared by the passes that branch off it."""
    last, net = last_sites(one.program), one.net
    with torch.no_grad():
        return torch.stack(
            [
                net.masked(
                    x,
                    [
                        mask(net, site, number if site in last else number // branches, sampling)
                        for site in range(len(net.sites))
                    ],
                )
                for number in range(passes)
            ]
        )


def assert_same(found, expected, dtype):
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@each_net
def test_branches_share_the_noise_of_all_sites_but_the_last(kind):
    one = captured(kind)
    x = one.rows(3)
    for sampling, branches, passes in (("iid", 4, 20), ("balanced", 8, 37)):
        found = outputs(one.engine, one, x, passes, PassOptions(sampling=sampling, branches=branches))
        assert_same(found, wanted(one, x, passes, branches, sampling), one.net.dtype)


@pytest.mark.parametrize(("kind", "last"), [(TwoSites, [1]), (ParallelBranches, [0]), (LastLayer, [0])])
def test_the_last_sites_reach_no_other(kind, last):
    assert last_sites(captured(kind).program) == last


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_chunks_change_no_branch(rows, monkeypatch):
    one = captured(TwoSites)
    monkeypatch.setattr(chunk_sizes, "_CHUNK_BYTES", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(chunk_sizes, "_MIN_CHUNK_ROWS", rows)
    x = one.rows(7)
    found = outputs(Engine(one.program), one, x, 37, PassOptions(sampling="balanced", branches=4))
    assert_same(found, wanted(one, x, 37, 4, "balanced"), torch.float64)


def test_thinned_parts_branch_alike():
    one = captured(TwoSites)
    x, scheme = one.rows(5), PassOptions(sampling="balanced", branches=4)
    thin = outputs(Engine(one.program, Tuning(1, 1)), one, x, 40, scheme)
    assert_same(thin, wanted(one, x, 40, 4, "balanced"), torch.float64)


class NoisyThenDropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop = nn.Linear(2, 3), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(F.linear(x, F.dropout(self.body.weight, 0.5, self.training), self.body.bias))


def test_noise_on_weights_cannot_branch_where_another_site_follows():
    net, x = NoisyThenDropped().eval(), torch.randn(3, 2)
    program = capture(net, x)
    with pytest.raises(InvalidInput, match="cannot branch: noise on weights"):
        list(Engine(program).run(program.weights, x, PassOptions(8, 0, branches=4, sampling="iid")))


def test_noise_on_weights_alone_has_nothing_to_share():
    one = captured(NoisyWeights)
    x = one.rows(2)
    assert torch.equal(
        outputs(one.engine, one, x, 8, PassOptions(branches=4, sampling="iid")),
        outputs(one.engine, one, x, 8, PassOptions(sampling="iid")),
    )


@pytest.mark.parametrize(
    "wrong", [{"branches": 3}, {"branches": 0}, {"sampling": "antithetic"}, {"masks": "own"}], ids=str
)
def test_a_scheme_that_cannot_be_is_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(InvalidInput, match=f"{name} is {value!r}; choose"):
        PassOptions(**wrong)
