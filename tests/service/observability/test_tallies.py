from itertools import pairwise

import numpy as np
import pytest

from mcdrop.observability.tallies import (
    COUNTS,
    DURATIONS_NS,
    MAX_DRIFT_NUMBERS,
    NATS,
    SPREADS,
    Histogram,
    Tally,
    TimedCount,
)
from tests.support.events import SPENT_NS, answered, computed

TOTAL_NS = sum(SPENT_NS.values())


def counted(edges, values):
    """How many values belong into each bucket, by the definition."""
    below = [-np.inf, *edges, np.inf]
    return [sum(low < value <= high for value in values) for low, high in pairwise(below)]


@pytest.mark.parametrize("edges", [DURATIONS_NS, COUNTS, NATS, SPREADS], ids=["ns", "counts", "nats", "spreads"])
def test_edges_rise(edges):
    assert list(edges) == sorted(set(edges))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_values_are_counted_alike_one_by_one_and_all_at_once(dtype):
    edges = (0.25, 0.5, 2.0)
    values = np.array([-1, 0, 0.25, 0.250001, 0.5, 1, 2, 2.5, 1e9], dtype)
    singly, together = Histogram(edges), Histogram(edges)

    for value in values.tolist():
        singly.add(value)
    together.add_all(values[:4])
    together.add_all(values[4:])

    assert singly.counts == together.counts == counted(edges, values)
    assert singly.count == together.count == len(values)
    assert singly.total == pytest.approx(together.total, rel=1e-12)


def test_what_is_no_number_is_not_counted():
    histogram = Histogram((1.0,))

    histogram.add_all(np.array([np.nan, np.inf, -np.inf, 0.5]))
    histogram.add_all(np.array([]))

    assert (histogram.counts, histogram.total) == ([1, 0], 0.5)


def test_statistics_are_the_sums_of_what_happened():
    tally = Tally()
    tally.call_finished(answered())
    tally.call_finished(answered(rows=5))
    tally.call_finished(answered("deadline", {"decode": 7, "queue": 11}))
    tally.call_finished(answered("invalid", {}))
    tally.batch_finished(computed(rows=8, seconds=0.5), 1234)
    tally.batch_finished(computed(failed=True), 5678)

    found = tally.statistics()

    assert (found.inference_count, found.execution_count, found.last_inference_ms) == (8, 1, 1234)
    assert found.success == TimedCount(2, 2 * TOTAL_NS)
    assert found.fail == TimedCount(2, 18)
    assert found.queue == TimedCount(2, 2 * SPENT_NS["queue"])
    assert found.compute_input == TimedCount(2, 2 * SPENT_NS["decode"])
    assert found.compute_infer == TimedCount(2, 2 * (SPENT_NS["prefix"] + SPENT_NS["suffix"]))
    assert found.compute_output == TimedCount(2, 2 * SPENT_NS["encode"])
    assert found.batches == {8: TimedCount(1, 500_000_000)}


def test_rows_count_times_passes_and_only_of_good_answers():
    tally = Tally()
    tally.call_finished(answered(rows=3, passes=32))
    tally.call_finished(answered(rows=2, passes=16))
    tally.call_finished(answered("backend", rows=100))

    assert (tally.rows, tally.row_passes) == (5, 3 * 32 + 2 * 16)


def test_sizes_of_batches_are_rounded_up_to_powers_of_two():
    tally = Tally()
    for rows in (0, 1, 2, 3, 4, 5, 1000):
        tally.batch_finished(computed(rows=rows, seconds=0.001), 0)

    sizes = {size: batches.count for size, batches in tally.statistics().batches.items()}

    assert sizes == {1: 2, 2: 1, 4: 2, 8: 1, 1024: 1}


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 5000])
def test_rows_of_one_answer_are_watched_evenly_and_up_to_a_bound(rows):
    values = np.linspace(0.0, 1.0, rows)
    tally = Tally()

    tally.call_finished(answered(mutual_information=values))

    watched = tally.drift["mutual_information"]
    every = 1 if rows <= MAX_DRIFT_NUMBERS else -(-rows // MAX_DRIFT_NUMBERS)
    assert watched.counts == counted(NATS, values[::every])
    assert min(rows, MAX_DRIFT_NUMBERS / 2) <= watched.count <= MAX_DRIFT_NUMBERS


def test_of_several_targets_whole_rows_are_watched():
    values = np.arange(600 * 10, dtype=np.float64).reshape(600, 10)
    tally = Tally()

    tally.call_finished(answered(std=values))

    assert tally.drift["std"].counts == counted(SPREADS, values[::6].ravel())
    assert tally.drift["std"].count <= MAX_DRIFT_NUMBERS


def test_of_a_classifier_the_entropies_are_watched_and_of_a_regression_the_spread():
    classifier, regression = Tally(), Tally()
    row = np.array([0.5])

    classifier.call_finished(answered(mutual_information=row, predictive_entropy=row, std=row[None]))
    regression.call_finished(answered(std=row[None]))

    assert set(classifier.drift) == {"mutual_information", "predictive_entropy"}
    assert set(regression.drift) == {"std"}
