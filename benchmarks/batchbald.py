"""Claim: BatchBALD of 10 rows out of 10 000, 32 passes, 10 classes: within 1 GB, 3 times as fast as batchbald_redux.

Two pools of drawn probabilities: "even", where every row is about as uncertain as the next (the worst case: almost
every row must be scored again at each pick), and "mixed", where most rows are certain, as a trained network's are.
10 000 configurations in both libraries, one intra-op thread. Each run is a process of its own, the methods in turn:
its CPU seconds, and its highest resident memory above the loaded pool; medians. alike: how many picks are also ours.
batchbald_redux is left out, by name, where it cannot be imported.

Run: python benchmarks/batchbald.py [--json FILE]
"""

import importlib
import importlib.util
import json as json_module
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from machine import report
from torch import Tensor

from dropout_core.acquire.joint import batchbald

_PASSES, _ROWS, _CLASSES, _PICKS, _CONFIGURATIONS = 32, 10_000, 10, 10, 10_000
# how far the classes of a row lie apart, how far the passes do
_POOLS = {"even": (2.0, 1.5), "mixed": (6.0, 1.5)}
_REDUX = "batchbald_redux"


def main(
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    rounds: int = 1,
    one: Annotated[tuple[str, str], typer.Option(help="Pool and method of a single run.", hidden=True)] = ("", ""),
) -> None:
    torch.set_num_threads(1)
    if all(one):
        print(json_module.dumps(_run(*one)))
        return
    if _REDUX not in _methods():
        print(f"{_REDUX} cannot be imported here: left out.")
    rows: list[dict[str, object]] = []
    for pool in _POOLS:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in _methods()}
        for _ in range(rounds):
            for name, runs in found.items():
                runs.append(_in_process(pool, name))
        ours = found["ours"]
        for name, runs in found.items():
            cpu_s = _median(runs, "cpu_s")
            case = {"pool": pool, "method": name, "cpu_s": cpu_s, "over_ours": cpu_s / _median(ours, "cpu_s")}
            alike = len(set(runs[0]["picks"]) & set(ours[0]["picks"]))
            rows.append({**case, "mib": _median(runs, "mib"), "alike": alike})
    report(f"BatchBALD, {_PICKS} of {_ROWS} rows, T = {_PASSES}, C = {_CLASSES}, 1 thread", rows, json)


def _pool(name: str) -> Tensor:
    torch.manual_seed(0)
    rows, passes = _POOLS[name]
    logits = rows * torch.randn(1, _ROWS, _CLASSES) + passes * torch.randn(_PASSES, _ROWS, _CLASSES)
    return torch.softmax(logits, dim=-1)


def _methods() -> dict[str, Callable[[Tensor], list[int]]]:
    methods: dict[str, Callable[[Tensor], list[int]]] = {"ours": _ours}
    if importlib.util.find_spec(_REDUX):
        methods[_REDUX] = _redux
    return methods


def _ours(probs: Tensor) -> list[int]:
    return batchbald(probs, _PICKS, num_samples=_CONFIGURATIONS).indices.tolist()


def _redux(probs: Tensor) -> list[int]:
    library = importlib.import_module(f"{_REDUX}.batchbald")
    torch.manual_seed(0)
    found = library.get_batchbald_batch(probs.transpose(0, 1).log(), _PICKS, _CONFIGURATIONS, dtype=torch.double)
    return list(found.indices)


def _in_process(pool: str, method: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", pool, method]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json_module.loads(finished.stdout.splitlines()[-1])
    return answer


def _run(pool: str, method: str) -> dict[str, object]:
    probs, choose = _pool(pool), _methods()[method]
    loaded, start = _resident_mib(), time.process_time()
    picks = choose(probs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": time.process_time() - start, "mib": peak - loaded, "picks": picks}


def _median(runs: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(run[name] for run in runs))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    typer.run(main)
