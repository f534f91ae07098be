"""Rows of several requests as one run: independent masks go by a row's place in its own request."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dropout_core.engine import chunks as chunk_sizes
from dropout_core.engine import engine as engine_module
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from tests.support.captured import captured
from tests.support.nets import Channels2d, Residual, TwoSites

INDEPENDENT = [
    PassOptions(sampling="iid", masks="independent"),
    PassOptions(sampling="balanced", masks="independent"),
    PassOptions(sampling="iid", masks="independent", branches=4),
]
PASSES = 20
each_net = pytest.mark.parametrize("kind", [TwoSites, Channels2d, Residual], ids=lambda kind: kind.__name__)
each_scheme = pytest.mark.parametrize("scheme", INDEPENDENT, ids=str)


def outputs(one, x, scheme, places=None, engine=None):
    """All passes [T, B, C], the chunks put together by their rows."""
    rows = {}
    for chunk in (engine or one.engine).run(
        one.program.weights, x, replace(scheme, passes=PASSES, seed=3), places=places
    ):
        rows.setdefault(chunk.index, []).append(chunk.outputs)
    return torch.cat([torch.cat(parts) for parts in rows.values()], dim=1)


def assert_same(found, wanted):
    # float64: a handful of roundings in another order
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1e-12 * float(wanted.abs().max())


@each_scheme
@each_net
def test_two_requests_in_one_run_are_each_as_alone_and_a_cut_one_as_whole(kind, scheme):
    one = captured(kind)
    x = one.rows(7)
    first, second = x[:4], x[4:]
    together = outputs(one, torch.cat([first[2:], second]), scheme, torch.tensor([2, 3, 0, 1, 2]))

    assert_same(together[:, :2], outputs(one, first, scheme)[:, 2:])
    assert_same(together[:, 2:], outputs(one, second, scheme))


@each_scheme
def test_a_place_decides_the_masks_of_a_row_wherever_it_is(scheme):
    one, order = captured(TwoSites), torch.tensor([3, 0, 4, 1, 2])
    x = one.rows(1).repeat(5, 1)  # whose answers differ by their masks alone
    wanted = outputs(one, x, scheme)

    assert_same(outputs(one, x, scheme, order), wanted[:, order])
    assert len({tuple(row) for row in wanted[:, :, 0].T.tolist()}) == 5
    far = outputs(one, x, scheme, torch.tensor([7, 7, 0, 1, 2]))
    assert torch.equal(far[:, 0], far[:, 1])
    assert not torch.equal(far[:, 0], wanted[:, 0])


@each_scheme
@pytest.mark.parametrize("boundary_bytes", [1, 2**20], ids=["held one by one", "held together"])
def test_places_go_with_their_rows_through_chunks(scheme, boundary_bytes, monkeypatch):
    one, places = captured(TwoSites), torch.tensor([5, 1, 0, 9, 2, 2, 8, 3, 11, 4, 6])
    wanted = outputs(one, one.rows(11), scheme, places)
    sizes = {"_CHUNK_BYTES": {"cpu": 1, "cuda": 1}, "_MIN_CHUNK_ROWS": 4, "_BOUNDARY_BYTES": boundary_bytes}
    for name, value in sizes.items():
        monkeypatch.setattr(chunk_sizes, name, value)

    assert_same(outputs(one, one.rows(11), scheme, places, Engine(one.program)), wanted)


@pytest.mark.parametrize(
    "scheme", [*INDEPENDENT, PassOptions(sampling="iid"), PassOptions(sampling="balanced")], ids=str
)
def test_without_places_rows_are_in_their_order(scheme):
    one = captured(TwoSites)
    x = one.rows(5)

    assert torch.equal(outputs(one, x, scheme), outputs(one, x, scheme, torch.arange(5)))


@pytest.mark.parametrize("sampling", ["iid", "balanced"])
def test_shared_masks_know_no_places(sampling):
    one = captured(TwoSites)
    x, scheme = one.rows(5), PassOptions(sampling=sampling)

    assert torch.equal(outputs(one, x, scheme), outputs(one, x, scheme, torch.tensor([9, 9, 0, 1, 4])))


def test_the_time_of_the_prefix_is_that_of_all_blocks_so_far(monkeypatch):
    """By a clock that ticks once each time that it is read: one tick for each block."""
    monkeypatch.setattr(chunk_sizes, "_CHUNK_BYTES", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(chunk_sizes, "_MIN_CHUNK_ROWS", 4)
    monkeypatch.setattr(chunk_sizes, "_BOUNDARY_BYTES", 1)
    ticks = iter(range(1000))
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    one = captured(TwoSites)

    found = [
        (chunk.index, chunk.prefix_s)
        for chunk in Engine(one.program).run(one.program.weights, one.rows(11), PassOptions(9, 0, sampling="iid"))
    ]

    assert sorted(set(found)) == [(0, 1), (1, 2), (2, 3)]
    assert [
        chunk.prefix_s
        for chunk in one.engine.run(one.program.weights, one.rows(1)[:0], PassOptions(9, 0, sampling="iid"))
    ] == [0.0]
