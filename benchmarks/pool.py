"""Claim: a pool in a file is ranked by mutual information 9 times as fast as by baal's loop and its BALD heuristic.

A pool of 100 000 × 784 float32 rows (.npy), the MLP of nets.py, 32 passes, one intra-op thread. ours: what `mcdrop
rank` does: the bundle loaded and verified, the file read in parts, a checkpoint kept. baal: its documented way,
ModelWrapper.predict_on_dataset over rows of the mapped file in batches of 256, then BALD's ranking; "loop" calls the
network T times on a batch, "replicated", its default, once on T copies. Each run is a process of its own, the methods
in turn; medians. rows/s: of the CPU's seconds, those of baal's loading processes among them, so that a busy machine
counts less; wall_s beside it. mib: the highest resident memory. alike: how many of its 100 picks
are among ours; masks differ, so that it says no more than that both rank, and on random weights little of that. baal is
left out, by name, where it cannot be imported.

Run: python benchmarks/pool.py [--rows N] [--rounds N] [--json FILE]
"""

import importlib
import importlib.util
import json as json_module
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from machine import report
from nets import mlp
from torch import nn

from mcdrop.pool.job import Files, RankJob
from mcdrop.pool.model import bundle_model
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish

_PASSES, _WIDTH, _PICKS, _BATCH, _PART = 32, 784, 100, 256, 10_000
Picks = Callable[[Path], list[int]]


def main(
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    rows: int = 100_000,
    rounds: int = 1,
    one: Annotated[tuple[str, Path], typer.Option(help="Method and folder of a single run.", hidden=True)] = (
        "",
        Path(),
    ),
) -> None:
    torch.set_num_threads(1)
    if one[0]:
        print(json_module.dumps(_run(*one)))
        return
    if "baal loop" not in _methods():
        print("baal cannot be imported here: left out.")
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder), rows)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in _methods()}
        for _ in range(rounds):
            for name, runs in found.items():
                runs.append(_in_process(name, folder))
    ours = rows / _median(found["ours"], "cpu_s")
    table: list[dict[str, object]] = []
    for name, runs in found.items():
        rate = rows / _median(runs, "cpu_s")
        alike = len(set(runs[0]["picks"]) & set(found["ours"][0]["picks"]))
        case = {"method": name, "rows/s": rate, "ours_over_it": ours / rate, "wall_s": _median(runs, "wall_s")}
        table.append({**case, "mib": _median(runs, "mib"), "alike": alike})
    report(f"{rows} × {_WIDTH} rows by mutual information, T = {_PASSES}, 1 thread", table, json)


def _make(folder: Path, rows: int) -> None:
    torch.manual_seed(0)
    publish(mlp().eval(), torch.rand(4, _WIDTH), name="mlp", task="classification", root=folder, passes=_PASSES)
    generator = np.random.default_rng(0)
    pool = np.lib.format.open_memmap(folder / "pool.npy", "w+", np.float32, (rows, _WIDTH))
    for start in range(0, rows, _PART):
        part = pool[start : start + _PART]
        part[:] = generator.random(part.shape, dtype=np.float32)


def _methods() -> dict[str, Picks]:
    methods: dict[str, Picks] = {"ours": _ours}
    if importlib.util.find_spec("baal"):
        methods |= {"baal loop": lambda folder: _baal(folder, replicated=False)}
        methods |= {"baal replicated": lambda folder: _baal(folder, replicated=True)}
    return methods


def _ours(folder: Path) -> list[int]:
    model = bundle_model(Predictor.newest(Repository(folder), "mlp"), {})
    question = RankJob(model, Files(folder / "pool.npy"), {"k": _PICKS, "score": "mutual_information"})
    ranked = question.answer(folder / f"ranked-{time.time_ns()}.npz", lambda *_: None, resume=False)
    return list(ranked.indices.tolist())


def _baal(folder: Path, replicated: bool) -> list[int]:
    dropout, wrapper, heuristics = (
        importlib.import_module(f"baal.{name}") for name in ("bayesian.dropout", "modelwrapper", "active.heuristics")
    )
    torch.manual_seed(0)
    network: nn.Module = dropout.MCDropoutModule(mlp().eval())
    arguments = wrapper.TrainingArgs(use_cuda=False, batch_size=_BATCH, replicate_in_memory=replicated)
    predictions = wrapper.ModelWrapper(network, arguments).predict_on_dataset(
        _Rows(folder / "pool.npy"), iterations=_PASSES, verbose=False
    )
    return list(heuristics.BALD()(predictions)[:_PICKS].tolist())


class _Rows(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A file's rows, each with a label that nobody reads."""

    def __init__(self, path: Path) -> None:
        self._rows = np.load(path, mmap_mode="c")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self._rows[row]), 0


def _in_process(method: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", method, folder]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json_module.loads(finished.stdout.splitlines()[-1])
    return answer


def _run(method: str, folder: Path) -> dict[str, object]:
    choose, start, wall = _methods()[method], _cpu_s(), time.perf_counter()
    picks = choose(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "cpu_s": _cpu_s() - start,
        "wall_s": time.perf_counter() - wall,
        "mib": peak,
        "picks": picks,
    }


def _cpu_s() -> float:
    """Of this process and of those it started and waited for."""
    times = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in times)


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


if __name__ == "__main__":
    typer.run(main)
