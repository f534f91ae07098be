"""What bounds a run: memory, a tolerance, and other runs beside it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from dropout_core.engine import torch_network
from dropout_core.engine.engine import Engine
from dropout_core.engine.options import PassOptions
from dropout_core.engine.torch_network import TorchSection
from dropout_core.engine.tuning import Tuning
from dropout_core.estimate.estimate import run_passes
from tests.support.captured import captured
from tests.support.nets import TwoSites


def assert_same(found, wanted, tolerance):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


class Scarce:
    """A part that has memory for so many rows at once, as a device."""

    def __init__(self, part, most, calls):
        self.part, self.most, self.calls = part, most, calls

    def __getattr__(self, name):
        return getattr(self.part, name)

    def run(self, weights, boundary, group, start, stop):
        self.calls.append((stop - start) * boundary.num_rows)
        if self.calls[-1] > self.most:
            raise torch.OutOfMemoryError
        return self.part.run(weights, boundary, group, start, stop)


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("most", [100, 7, 2])
def test_a_chunk_that_finds_no_memory_is_halved_and_so_is_the_rest(most, branches, monkeypatch):
    """Seven and two are fewer than the eleven rows: rows are cut too."""
    one, calls = captured(TwoSites), []
    x, scheme = one.rows(11), PassOptions(branches=branches, sampling="iid")
    wanted = torch.cat(
        [chunk.outputs for chunk in one.engine.run(one.program.weights, x, replace(scheme, passes=40, seed=0))]
    )
    monkeypatch.setattr(torch_network, "TorchSection", lambda *parts: Scarce(TorchSection(*parts), most, calls))
    chunks = list(Engine(one.program).run(one.program.weights, x, replace(scheme, passes=40, seed=0)))
    assert {chunk.outputs.shape[1] for chunk in chunks} == {11}
    assert_same(torch.cat([chunk.outputs for chunk in chunks]), wanted, 1e-12)
    refused = [size for size in calls if size > most]
    assert 0 < len(refused) <= 20  # of some hundred: the size found is kept
    assert sum(size for size in calls if size <= most) >= 40 * 11


def test_a_device_without_memory_for_one_row_says_so(monkeypatch):
    one = captured(TwoSites)
    monkeypatch.setattr(torch_network, "TorchSection", lambda *parts: Scarce(TorchSection(*parts), 0, []))
    with pytest.raises(torch.OutOfMemoryError):
        list(Engine(one.program).run(one.program.weights, one.rows(3), PassOptions(4, 0, sampling="iid")))


def test_other_failures_are_not_tried_again(monkeypatch):
    one, calls = captured(TwoSites), []

    class Failing(Scarce):
        def run(self, *args):
            self.calls.append(1)
            raise RuntimeError("out of memory, says somebody")

    monkeypatch.setattr(torch_network, "TorchSection", lambda *parts: Failing(TorchSection(*parts), 0, calls))
    with pytest.raises(RuntimeError, match="says somebody"):
        list(Engine(one.program).run(one.program.weights, one.rows(3), PassOptions(4, 0, sampling="iid")))
    assert calls == [1]


def test_a_tolerance_stops_each_row_at_its_own_number_of_passes():
    """What it says of a row is what as many passes say, with its standard error below the tolerance."""
    one = captured(TwoSites)
    x = one.rows(12) * torch.logspace(-2, 1, 12, dtype=torch.float64).unsqueeze(1)
    weights = one.program.weights
    found = run_passes(
        one.engine,
        weights,
        x,
        PassOptions(512, 0, sampling="balanced", tolerance={"mean": 0.02}, min_passes=32),
        "mean",
    )
    used = found.passes_used.tolist()
    assert min(used) < max(used)
    for row, passes in enumerate(used):
        fixed = run_passes(one.engine, weights, x[row : row + 1], PassOptions(passes, 0, sampling="balanced"), "mean")
        assert_same(found.mean[row], fixed.mean[0], 1e-12)
        assert_same(found.standard_error[row], fixed.standard_error[0], 1e-9)
        assert passes == 512 or (found.standard_error[row] <= 0.02).all()
        if 32 < passes < 512:
            before = run_passes(
                one.engine, weights, x[row : row + 1], PassOptions(passes - 16, 0, sampling="balanced"), "mean"
            )
            assert (before.standard_error > 0.02).any()


def test_one_engine_serves_many_threads():
    """Eight at once, of other seeds, schemes and numbers of rows, each with the answer it gets alone."""
    one = captured(TwoSites)
    engine = Engine(one.program, Tuning(4, 4))
    jobs = [
        (rows, seed, PassOptions(sampling=sampling))
        for rows in (1, 3, 9)
        for seed in range(4)
        for sampling in ("iid", "balanced")
    ]

    def outputs(job):
        rows, seed, scheme = job
        return torch.cat(
            [c.outputs for c in engine.run(one.program.weights, one.rows(rows), replace(scheme, passes=48, seed=seed))]
        )

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(outputs, jobs * 3))
    fresh = Engine(one.program, Tuning(10**9, 10**9))
    for job, found in zip(jobs * 3, together, strict=True):
        rows, seed, scheme = job
        alone = [
            c.outputs for c in fresh.run(one.program.weights, one.rows(rows), replace(scheme, passes=48, seed=seed))
        ]
        assert_same(found, torch.cat(alone), 1e-12)
