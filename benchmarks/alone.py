"""The engine without a server, in a process of its own: a line of JSON in, a line out.

Run: python alone.py BUNDLES CACHE. In: net, rows, passes, seconds. Out: the mean cpu_s and the median wall_s of one
answer to so many rows, all measures as arrays, after one that is not counted.
"""

import json
import statistics
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from wire import rows_of

from mcdrop.inference.query import Query, model_measures
from mcdrop.inference.result import run_query
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.loading.tunings import tuning_cache_at


def _answer() -> None:
    torch.set_num_threads(1)
    bundles, cache = map(Path, sys.argv[1:])
    repository, tunings = Repository(bundles), tuning_cache_at(cache / "tunings")
    predictors: dict[str, Predictor] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        net = asked["net"]
        if net not in predictors:
            predictors[net] = Predictor.load(repository, net, 1, tunings=tunings)
        found = _timed(predictors[net], asked["rows"], asked["passes"], asked["seconds"])
        print(json.dumps(found), flush=True)


def _timed(predictor: Predictor, rows: int, passes: int, seconds: float) -> dict[str, float]:
    manifest = predictor.manifest
    spec = manifest.inputs[0]
    x = torch.from_numpy(rows_of(tuple(int(size) for size in spec.shape), rows))
    options = replace(manifest.pass_options, passes=passes)
    query = Query(predictor, {spec.name: x}, rows, options, model_measures(predictor))
    run_query(query)
    walls: list[float] = []
    start_cpu, start = time.process_time(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        begun = time.perf_counter()
        run_query(query)
        walls.append(time.perf_counter() - begun)
    return {"cpu_s": (time.process_time() - start_cpu) / len(walls), "wall_s": statistics.median(walls)}


def main() -> None:
    # Not on the first thread, for the server does not compute there: its heap is given back to the system, and taken
    # again page by page, more often than those of other threads.
    worker = threading.Thread(target=_answer)
    worker.start()
    worker.join()


if __name__ == "__main__":
    main()
