"""Measured choices are kept by bundle, machine and torch, and do not change answers."""

import json
import logging

import pytest
import torch

from dropout_core.engine.options import PassOptions
from dropout_core.engine.tuning import Tuning
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading import tunings
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.loading.tunings import TuningCache, tuning_cache_at
from tests.support.program_nets import Mlp, rows_for

_UNUSUAL = Tuning(thin_rows=1, thin_rows_cold=1, chunk_bytes=2**10)


@pytest.fixture
def measured(monkeypatch):
    """The number of rows of each measurement. The measured choices are unusual ones."""
    seen = []

    def counted(program, example):
        seen.append({name: len(rows) for name, rows in example.items()})
        return _UNUSUAL

    monkeypatch.setattr(tunings, "tune", counted)
    return seen


def _loaded(published, folder):
    return Predictor.load(Repository(published), "net", 1, tunings=tuning_cache_at(folder))


def test_a_bundle_is_measured_once(published, measured, tmp_path):
    first, second = _loaded(published, tmp_path / "new"), _loaded(published, tmp_path / "new")
    assert measured == [{"input": 8}]  # its probe
    assert first.engine.tuning == second.engine.tuning == _UNUSUAL
    (kept,) = (tmp_path / "new").iterdir()
    assert json.loads(kept.read_text()) == {"thin_rows": 1, "thin_rows_cold": 1, "chunk_bytes": 2**10}


def test_without_a_folder_nothing_is_measured(published, measured):
    assert _loaded(published, None).engine.tuning == Tuning()
    assert measured == []


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(torch, "__version__", "2.99"),
        lambda patch: patch.setattr(torch, "get_num_threads", lambda: 7),
        lambda patch: patch.setattr("platform.machine", lambda: "another"),
    ],
    ids=["torch", "threads", "architecture"],
)
def test_each_machine_measures_for_itself(published, measured, tmp_path, monkeypatch, change):
    _loaded(published, tmp_path)
    change(monkeypatch)
    _loaded(published, tmp_path)
    assert len(measured) == len(list(tmp_path.iterdir())) == 2


def test_each_bundle_is_measured_separately(published, measured, tmp_path):
    program, kept = Predictor.load(Repository(published), "net", 1).program, TuningCache(tmp_path)
    for digest in ("sha256:a", "sha256:b", "sha256:a"):
        kept.get(digest, program, {"input": torch.zeros(2, 4)})
    assert len(measured) == 2


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"thin_rows": "few"}'], ids=["empty", "no text", "no number"])
def test_a_corrupt_file_is_measured_again_with_a_warning(published, measured, tmp_path, caplog, content):
    _loaded(published, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert _loaded(published, tmp_path).engine.tuning == _UNUSUAL
    assert len(measured) == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{file} cannot be read and are measured again" in caplog.text
    assert _loaded(published, tmp_path).engine.tuning == _UNUSUAL
    assert len(measured) == 2


def test_a_folder_that_cannot_be_written_costs_a_warning(published, measured, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert _loaded(published, tmp_path / "file" / "tunings").engine.tuning == _UNUSUAL
    assert "the measured choices cannot be kept in" in caplog.text


def test_choices_change_no_answer(published, measured, tmp_path):
    """Thinned passes and small chunks sum in another order; 1e-5 of the probabilities' scale is promised."""
    rows, plan = rows_for(Mlp(), (4,), 40), PassOptions(20, 3)
    usual, unusual = (_loaded(published, folder) for folder in (None, tmp_path))
    assert unusual.engine.tuning != usual.engine.tuning
    for measure in ("mean", "variance", "mutual_information"):
        answers = [one.predict(rows, plan).measure(measure) for one in (usual, unusual)]
        assert torch.allclose(*answers, rtol=0.0, atol=1e-5), measure
