"""CPU time of several methods, run in turn in one process."""

import statistics
import time
from collections.abc import Callable


def interleaved(methods: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median CPU seconds of each method, run in turn after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds + 1):
        for name, method in methods.items():
            start = time.process_time()
            method()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}
