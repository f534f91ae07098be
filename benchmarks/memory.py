"""Claim: peak memory does not grow with the number of passes.

Each run is a process of its own: load the digits bundle, note the resident memory, answer, and take the highest
resident memory above that; 1000 passes are compared with 10. Runs go in turn, and medians are compared.

Two allocators. "default" is what a server has: its heap keeps some MiB of freed blocks, more of them the longer it
works, which is the larger share of so small a network's memory. "exact" is the same program under
MALLOC_MMAP_THRESHOLD_=65536, where a freed block leaves at once: the memory that is really in use.

Run: python benchmarks/memory.py --bundles bundles [--json FILE]
"""

import json as json_module
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from machine import report

from mcdrop.inference.catalogue import Catalogue
from mcdrop_models.bundle.repository import Repository

_PASSES = (10, 1000)
_ALLOCATORS = {"default": {}, "exact": {"MALLOC_MMAP_THRESHOLD_": "65536"}}
_CASES = [(num_rows, allocator) for num_rows in (256, 2048) for allocator in _ALLOCATORS]


def main(
    bundles: Annotated[Path, typer.Option(help="Folder with the digits bundle.")] = Path("bundles"),
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    rounds: int = 3,
    one: Annotated[tuple[int, int], typer.Option(help="Rows and passes of a single run.", hidden=True)] = (0, 0),
) -> None:
    if any(one):
        print(json_module.dumps(_above_loaded(bundles, *one)))
        return
    rows: list[dict[str, object]] = []
    for num_rows, allocator in _CASES:
        found: dict[int, list[float]] = {passes: [] for passes in _PASSES}
        for _ in range(rounds):
            for passes, above in found.items():
                above.append(_measure(bundles, num_rows, passes, allocator))
        few, many = (statistics.median(above) for above in found.values())
        case = {"rows": num_rows, "allocator": allocator, "mib_10_passes": few, "mib_1000_passes": many}
        rows.append({**case, "ratio": many / few})
    report("digits bundle, highest resident memory above the loaded bundle, MiB", rows, json)


def _measure(bundles: Path, num_rows: int, passes: int, allocator: str) -> float:
    command = [sys.executable, __file__, "--bundles", str(bundles), "--one", str(num_rows), str(passes)]
    environment = {**os.environ, **_ALLOCATORS[allocator]}
    finished = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json_module.loads(finished.stdout))


def _above_loaded(bundles: Path, num_rows: int, passes: int) -> float:
    torch.set_num_threads(1)
    predictor = Catalogue(Repository(bundles)).get("digits")
    (probe,) = predictor.probe.values()
    x = probe.repeat(num_rows // len(probe), 1, 1)
    loaded = _resident_mib()
    predictor.predict(x, replace(predictor.manifest.pass_options, passes=passes, seed=1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - loaded


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    typer.run(main)
