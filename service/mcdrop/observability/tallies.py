"""Counts of one version of a model. Durations are whole nanoseconds, so that sums stay exact."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

import numpy as np

from mcdrop.observability.events import BatchFinished, CallFinished, Outcome
from mcdrop.wire.npy import Array

# Edges are the same for every model, so that histograms of several models can be added up.
_S = 1e9
DURATIONS_NS = tuple(
    int(seconds * _S)
    for seconds in (2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
)
COUNTS = tuple(4**power for power in range(9))
# Most classifiers have 2 to 1000 classes: log 2 is 0.69 and log 1000 is 6.9. Confident rows need fine buckets.
NATS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
# Targets have any unit: two edges a decade show a shift of the median by a factor of three.
SPREADS = tuple(float(f"{10 ** (half / 2):.3g}") for half in range(-12, 13))
_DRIFT = {"mutual_information": NATS, "predictive_entropy": NATS, "std": SPREADS}
# More numbers of one response would not show drift better, and would take too long to count.
MAX_DRIFT_NUMBERS = 1024


class Histogram:
    """Counts of values by bucket; the last bucket holds the values above all edges.

    Args:
        edges: Upper edges of the buckets, ascending.
    """

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total: float = 0

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Count a value.

        Args:
            value: The value.
        """
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def add_all(self, values: Array) -> None:
        """Count every finite value of an array.

        Args:
            values: The values, of any shape [n].
        """
        finite = values[np.isfinite(values)]
        found = np.bincount(np.searchsorted(self.edges, finite), minlength=len(self.counts))
        self.counts = [before + more for before, more in zip(self.counts, found.tolist(), strict=True)]
        self.total += float(finite.sum(dtype=np.float64))


@dataclass(frozen=True)
class TimedCount:
    """A number of events and their total time.

    Attributes:
        count: Number of events.
        ns: Nanoseconds in total.
    """

    count: int
    ns: int


@dataclass(frozen=True)
class VersionCounts:
    """The counts of one version, named as the statistics of the Open Inference Protocol.

    Attributes:
        inference_count: Rows of successful requests.
        execution_count: Batches computed.
        last_inference_ms: Time of the last batch, in milliseconds since 1970; 0 before the first.
        success: Successful requests.
        fail: Failed requests.
        queue: Waiting time of successful requests, as Triton counts it.
        compute_input: Their decoding.
        compute_infer: Their computation.
        compute_output: Their encoding.
        batches: Computing time by the number of rows, rounded up to a power of two.
    """

    inference_count: int
    execution_count: int
    last_inference_ms: int
    success: TimedCount
    fail: TimedCount
    queue: TimedCount
    compute_input: TimedCount
    compute_infer: TimedCount
    compute_output: TimedCount
    batches: Mapping[int, TimedCount]


@dataclass
class Tally:
    """The counts of one version. Not safe for threads; the owner holds a lock."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    success: Histogram = field(default_factory=lambda: Histogram(DURATIONS_NS))
    failure: Histogram = field(default_factory=lambda: Histogram(DURATIONS_NS))
    phases: dict[str, Histogram] = field(
        default_factory=lambda: {
            name: Histogram(DURATIONS_NS) for name in ("decode", "queue", "prefix", "suffix", "encode")
        }
    )
    rows: int = 0
    row_passes: int = 0
    drift: dict[str, Histogram] = field(default_factory=dict)
    batches: Counter[str] = field(default_factory=Counter)
    batch: Histogram = field(default_factory=lambda: Histogram(DURATIONS_NS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(COUNTS))
    batch_requests: Histogram = field(default_factory=lambda: Histogram(COUNTS))
    by_size: dict[int, TimedCount] = field(default_factory=dict)
    last_ms: int = 0

    def call_finished(self, event: CallFinished) -> None:
        """Count a request.

        Args:
            event: The request.
        """
        self.outcomes[event.outcome] += 1
        good = event.outcome == "success"
        if event.phases:
            (self.success if good else self.failure).add(event.phases[-1].end_ns - event.phases[0].start_ns)
        if good:
            for phase in event.phases:
                self.phases[phase.name].add(phase.end_ns - phase.start_ns)
            self.rows += event.rows
            self.row_passes += event.rows * event.passes
            self._record_drift(event.measures)

    def batch_finished(self, event: BatchFinished, now_ms: int) -> None:
        """Count a batch.

        Args:
            event: The batch.
            now_ms: Current time in milliseconds since 1970.
        """
        self.batches["failure" if event.failed else "success"] += 1
        if event.failed:
            return
        ns = int(event.seconds * _S)
        self.batch.add(ns)
        self.batch_rows.add(event.rows)
        self.batch_requests.add(event.requests)
        size = 1 << max(event.rows - 1, 0).bit_length()
        before = self.by_size.get(size, TimedCount(0, 0))
        self.by_size[size] = TimedCount(before.count + 1, before.ns + ns)
        self.last_ms = now_ms

    def statistics(self) -> VersionCounts:
        """The counts as they are now."""
        prefix, suffix = _duration(self.phases["prefix"]), _duration(self.phases["suffix"])
        successes = self.outcomes["success"]
        return VersionCounts(
            inference_count=self.rows,
            execution_count=self.batches["success"],
            last_inference_ms=self.last_ms,
            success=TimedCount(successes, int(self.success.total)),
            fail=TimedCount(self.outcomes.total() - successes, int(self.failure.total)),
            queue=_duration(self.phases["queue"]),
            compute_input=_duration(self.phases["decode"]),
            compute_infer=TimedCount(suffix.count, prefix.ns + suffix.ns),
            compute_output=_duration(self.phases["encode"]),
            batches=dict(sorted(self.by_size.items())),
        )

    def _record_drift(self, measures: Mapping[str, Array]) -> None:
        """Count the uncertainty of evenly spaced rows. For classifiers std adds nothing and is left out."""
        entropies = "predictive_entropy" in measures
        for name, values in measures.items():
            if name not in _DRIFT or (name == "std" and entropies):
                continue
            if name not in self.drift:
                self.drift[name] = Histogram(_DRIFT[name])
            numbers = _some(_some(values).reshape(-1))
            self.drift[name].add_all(numbers)


def _some(values: Array) -> Array:
    """Return at least one and about `MAX_DRIFT_NUMBERS` evenly spaced values."""
    return values[:: max(1, ceil(values.size / MAX_DRIFT_NUMBERS))]


def _duration(histogram: Histogram) -> TimedCount:
    return TimedCount(histogram.count, int(histogram.total))
