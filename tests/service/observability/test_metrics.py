import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from mcdrop.observability.metrics import Metrics, Reading
from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served
from tests.support.events import SPENT_NS, answered, computed
from tests.support.fakes import NoCatalogue

TOTAL_S = sum(SPENT_NS.values()) / 1e9
DIGITS = {"model": "digits", "version": "2"}
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "operate.md"
ROWS = nets.images(3).tolist()


def samples(text, parse=plain):
    """The value of each sample by its name and labels."""
    families = list(parse(text.decode() if isinstance(text, bytes) else text))
    return {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}


def value(found, name, **labels):
    return found[f"mcdrop_{name}", *sorted(labels.items())]


@pytest.fixture
def metrics():
    return Metrics((), {})


def test_events_are_the_samples_of_every_format(metrics):
    metrics.call_finished(answered(mutual_information=np.array([0.05, 0.05, 0.65])))
    metrics.call_finished(answered("rejected", {"decode": 500_000_000}))
    metrics.batch_finished(computed(rows=17, seconds=0.03, requests=3))
    metrics.batch_finished(computed(failed=True))

    for accept, parse in (("", plain), ("application/openmetrics-text; version=1.0.0", openmetrics)):
        found = samples(metrics.text(accept)[0], parse)
        assert value(found, "requests_total", **DIGITS, outcome="success") == 1
        assert value(found, "requests_total", **DIGITS, outcome="rejected") == 1
        assert value(found, "rows_total", **DIGITS) == 3
        assert value(found, "row_passes_total", **DIGITS) == 96
        assert value(found, "batches_total", **DIGITS, outcome="success") == 1
        assert value(found, "batches_total", **DIGITS, outcome="failure") == 1
        assert value(found, "request_seconds_sum", **DIGITS) == pytest.approx(TOTAL_S)
        assert value(found, "failed_request_seconds_sum", **DIGITS) == 0.5
        for phase, ns in SPENT_NS.items():
            assert value(found, f"{phase}_seconds_sum", **DIGITS) == pytest.approx(ns / 1e9)
        assert value(found, "compute_seconds_sum", **DIGITS) == 0.03
        assert value(found, "compute_seconds_bucket", **DIGITS, le="0.025") == 0
        assert value(found, "compute_seconds_bucket", **DIGITS, le="0.05") == 1
        assert value(found, "batch_rows_bucket", **DIGITS, le="16.0") == 0
        assert value(found, "batch_rows_bucket", **DIGITS, le="64.0") == 1
        assert value(found, "batch_requests_sum", **DIGITS) == 3
        drift = [value(found, "mutual_information_nats_bucket", **DIGITS, le=le) for le in ("0.03", "0.1", "0.7")]
        assert drift == [0, 2, 3]
        assert value(found, "mutual_information_nats_sum", **DIGITS) == 0.75


def test_the_accept_header_chooses_the_format(metrics):
    assert metrics.text("")[1].startswith("text/plain; version=0.0.4")
    assert metrics.text("text/html, */*")[1].startswith("text/plain; version=0.0.4")
    assert metrics.text("application/openmetrics-text; version=1.0.0")[1].startswith("application/openmetrics-text")


def test_statistics_are_of_one_version_and_nothing_of_one_that_was_never_asked(metrics):
    metrics.call_finished(answered(version=1, rows=7))
    metrics.call_finished(answered(version=2))

    assert metrics.statistics("digits", 1).inference_count == 7
    assert metrics.statistics("digits", 2).inference_count == 3
    assert metrics.statistics("digits", 3).inference_count == 0
    assert b'version="3"' not in metrics.text("")[0]


def test_when_a_batch_was_computed_is_told_in_milliseconds(metrics):
    before = time.time_ns() // 10**6
    metrics.batch_finished(computed())

    assert before <= metrics.statistics("digits", 2).last_inference_ms <= time.time_ns() // 10**6


def test_readings_are_looked_up_each_time():
    numbers = iter([1, 2])
    metrics = Metrics((Reading("mcdrop_found", "What is found.", lambda: next(numbers)),), {"device": "cpu"})

    found = [samples(metrics.text("")[0]) for _ in range(2)]

    assert [value(one, "found") for one in found] == [1, 2]
    assert value(found[0], "info", device="cpu") == 1


def test_two_servers_of_one_process_count_apart():
    first, second = Metrics((), {}), Metrics((), {})
    first.call_finished(answered())

    assert b"digits" in first.text("")[0]
    assert b"digits" not in second.text("")[0]


class Slow(dict):
    """Measures that take a while to look at. Knows how many threads look at once."""

    inside = most_inside = 0

    def items(self):
        Slow.inside += 1
        Slow.most_inside = max(Slow.most_inside, Slow.inside)
        time.sleep(0.001)
        Slow.inside -= 1
        return super().items()


def test_threads_count_one_after_the_other(metrics):
    event = replace(answered(version=1), measures=Slow(mutual_information=np.array([0.5])))

    def work():
        for _ in range(5):
            metrics.call_finished(event)
            metrics.batch_finished(computed(version=1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.text("")

    assert Slow.most_inside == 1
    assert metrics.statistics("digits", 1).success.count == 20
    assert metrics.statistics("digits", 1).execution_count == 20
    assert value(samples(metrics.text("")[0]), "mutual_information_nats_sum", model="digits", version="1") == 10


def test_a_server_counts_what_it_is_asked(bundles, server):
    with Served(Settings(bundles=bundles), server.state.catalogue) as served:
        served.loaded().predict("digits", ROWS, passes=8)
        served.post("/v1/models/digits/predict", {"inputs": [[1]]})
        served.rank("digits", ROWS, k=1)
        served.post("/v1/models/nobody-knows-it/predict", {"inputs": [[1]]})
        answer = served.get("/metrics")
        statistics = served.state.metrics.statistics("digits", 2)

    found = samples(answer.text)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert value(found, "requests_total", **DIGITS, outcome="success") == 2
    assert value(found, "requests_total", **DIGITS, outcome="invalid") == 1
    assert value(found, "rows_total", **DIGITS) == statistics.inference_count == 6
    assert value(found, "row_passes_total", **DIGITS) == 3 * 8 + 3 * 20
    assert value(found, "batches_total", **DIGITS, outcome="success") == statistics.execution_count == 2
    assert value(found, "mutual_information_nats_count", **DIGITS) == 6
    assert {labels[1][1]: count for labels, count in found.items() if labels[0] == "mcdrop_http_responses_total"} == {
        "200": 2,
        "404": 1,
        "422": 1,
    }
    assert value(found, "ready") == 1
    assert value(found, "loaded_bundles") == len(server.state.catalogue.loaded())
    assert value(found, "loaded_bytes") == sum(one.predictor.nbytes for one in server.state.catalogue.loaded())
    assert (value(found, "pending_requests"), value(found, "pending_seconds")) == (0, 0)
    assert found[("process_open_fds",)] > 0
    assert "nobody-knows-it" not in answer.text


def test_every_metric_is_explained_and_no_other(server):
    explained = re.findall(
        r"`(mcdrop_\w+)`", "".join(re.findall(r"^\| (`mcdrop_.*?) \|", PAGE.read_text(), re.MULTILINE))
    )
    endings = {"counter": "_total", "info": "_info"}

    families = server.state.metrics.families()

    assert sorted(explained) == sorted(family.name + endings.get(family.type, "") for family in families)


def test_a_server_without_a_model_is_not_ready(bundles):
    with Served(Settings(bundles=bundles, watch=False), NoCatalogue()) as served:
        found = samples(served.get("/metrics").text)

    assert (value(found, "ready"), value(found, "loaded_bundles"), value(found, "loaded_bytes")) == (0, 0, 0)
