"""What a prediction costs here, and what was measured for it."""

import pytest

from dropout_core.engine.tuning import NEVER, Tuning
from mcdrop.cli import bench
from mcdrop.settings import Settings
from mcdrop_models.loading import tunings
from tests.service.cli.test_console import cells
from tests.service.conftest import assert_refused
from tests.support import service_nets as nets
from tests.support.asgi import Served


@pytest.fixture
def measuring(monkeypatch, tmp_path):
    """Settings as a user has them, with a folder of choices, which are found at once; how often they were measured."""
    asked = []
    monkeypatch.setenv("MCDROP_TUNE", "true")
    monkeypatch.setenv("MCDROP_CACHE", str(tmp_path))
    monkeypatch.setattr(tunings, "tune", lambda *_: asked.append(1) or Tuning(5, NEVER))
    monkeypatch.setattr(bench, "_SECONDS", 0.0)
    return asked


def test_bench_prints_a_row_for_each_number_of_rows(mcdrop, bundles, measuring):
    code, out, _ = mcdrop("bench", "digits", "--rows", 1, "--rows", 3, "--passes", 16, "--bundles", bundles)
    header, *rows = cells(out)
    assert code == 0
    assert out.startswith("digits 2, computed by torch: ")
    assert "thinned from 5 rows on where the seed was used before, never on where it is new" in " ".join(out.split())
    assert header[:2] == ["rows", "T = 16, ms"]
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(float(cell) > 0 for row in rows for cell in row)
    assert measuring == [1]


@pytest.mark.parametrize("rows", [["0"], ["1", "0"], ["-2"]], ids=str)
def test_no_rows_cost_nothing_and_are_refused(mcdrop, bundles, measuring, rows):
    options = [word for count in rows for word in ("--rows", count)]
    assert_refused(mcdrop("bench", "digits", *options, "--bundles", bundles), "give at least 1 row")


def test_a_server_measures_what_it_loads_once(bundles, measuring, tmp_path):
    for _ in range(2):
        with Served(Settings(bundles=bundles)) as served:
            engines = [one.predictor.engine for one in served.loaded().state.catalogue.loaded()]
            assert [engine.tuning for engine in engines] == [Tuning(5, NEVER)] * 2
    assert len(measuring) == len(list((tmp_path / "tunings").iterdir())) == 2


def test_a_server_that_shall_not_measure_does_not(bundles, measuring, tmp_path):
    with Served(Settings(bundles=bundles, tune=False)) as served:
        assert served.loaded().predict("digits", nets.images(1).tolist())["version"] == 2
    assert measuring == []
    assert not (tmp_path / "tunings").exists()
