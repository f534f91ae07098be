"""What a row costs, by a predictor whose runs take a known time."""

from types import SimpleNamespace

import pytest
import torch

from dropout_core.engine.options import PassOptions
from mcdrop.inference import cost as module
from mcdrop.inference.cost import RowCost, measure_row_cost


class Timed:
    """A predictor, and a clock that goes on when it runs. first_s: what the first run takes more."""

    def __init__(self, seconds, first_s=0.0, probe_rows=3):
        self.now, self.runs = 0.0, []
        self._seconds, self._first_s = seconds, first_s
        self.probe = {"x": torch.arange(probe_rows)[:, None]}
        self.manifest = SimpleNamespace(pass_options=PassOptions(seed=5))

    def perf_counter(self):
        return self.now

    def estimate(self, inputs, plan):
        rows = inputs["x"].flatten().tolist()
        self.now += self._seconds(len(rows), plan.passes) + (0.0 if self.runs else self._first_s)
        self.runs.append((rows, plan.passes, plan.seed, plan))
        return SimpleNamespace(mean=torch.zeros(len(rows)))


def costs(monkeypatch, timed):
    monkeypatch.setattr(module, "time", timed)
    return measure_row_cost(timed)


def near(cost):
    """A few roundings of sums of numbers below 1."""
    return pytest.approx((cost.row_s, cost.pass_s), rel=1e-9)


@pytest.mark.parametrize("first_s", [0.0, 0.05], ids=["warm", "cold"])
def test_what_rows_and_passes_take_is_told_apart_from_what_a_batch_takes(monkeypatch, first_s):
    timed = Timed(lambda rows, passes: 0.001 + rows * (2e-5 + passes * 3e-6), first_s)

    found = costs(monkeypatch, timed)

    assert (found.row_s, found.pass_s) == near(RowCost(2e-5, 3e-6))
    assert found.of_row(10) == pytest.approx(5e-5, rel=1e-9)


def test_it_is_measured_on_the_published_rows_by_the_published_noise(monkeypatch):
    timed = Timed(lambda rows, passes: 1e-6 * rows)
    costs(monkeypatch, timed)

    assert max(len(rows) for rows, *_ in timed.runs) == 64
    for rows, passes, *noise in timed.runs:
        assert rows == [row % 3 for row in range(len(rows))]
        assert noise == [5, PassOptions(passes, 5)]


def test_a_slow_network_is_measured_by_few_rows_once(monkeypatch):
    timed = Timed(lambda rows, passes: rows * passes * 0.1)

    found = costs(monkeypatch, timed)

    assert (found.row_s, found.pass_s) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.1, rel=1e-9))
    assert [(len(rows), passes) for rows, passes, *_ in timed.runs] == [(1, 16), (2, 16), (2, 32)]


@pytest.mark.parametrize(
    "seconds", [lambda rows, passes: 0.001, lambda rows, passes: 0.01 / passes / rows], ids=["nothing more", "less"]
)
def test_a_row_never_costs_nothing(monkeypatch, seconds):
    """Of a measurement that tells rows not apart, or is of another program beside."""
    found = costs(monkeypatch, Timed(seconds))

    assert found == RowCost(0.0, 1e-7)


def test_a_real_model_costs_something(digits):
    found = measure_row_cost(digits)

    assert found.row_s >= 0
    assert found.pass_s > 0
