import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.datastructures import Headers

from mcdrop.observability import tracing
from mcdrop.observability.middleware import Exchange
from mcdrop.observability.tracing import Tracing
from mcdrop.server.app import create_app
from mcdrop.settings import InvalidConfig, Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served
from tests.support.events import START_NS, answered, phases

ROUTE = "/v1/models/{name}/predict"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Route:
    path = ROUTE


def exchange_of(status=200, event=None, **headers):
    scope = {"method": "POST", "path": "/v1/models/digits/predict", "client": ("10.0.0.7", 5), "route": Route()}
    return Exchange(scope, Headers(headers), "mine", START_NS - 5, START_NS + 10**9, status, event)


@pytest.fixture
def spans():
    """The finished spans of an exchange, in order of their start."""

    def of(*exchanges):
        exporter = InMemorySpanExporter()
        traced = Tracing(SimpleSpanProcessor(exporter))
        for exchange in exchanges:
            traced.exchanged(exchange)
        traced.close()
        return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)

    return of


def test_a_request_is_a_span_and_each_of_its_phases_one_within(spans):
    server, *inner = spans(exchange_of(event=answered(rows=3, passes=32)))

    assert (server.name, server.kind, server.parent) == (f"POST {ROUTE}", SpanKind.SERVER, None)
    assert (server.start_time, server.end_time) == (START_NS - 5, START_NS + 10**9)
    assert dict(server.attributes) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "url.path": "/v1/models/digits/predict",
        "http.response.status_code": 200,
        "client.address": "10.0.0.7",
        "mcdrop.request_id": "mine",
        "mcdrop.model": "digits",
        "mcdrop.version": 2,
        "mcdrop.outcome": "success",
        "mcdrop.rows": 3,
        "mcdrop.passes": 32,
    }
    assert [(one.name, one.start_time, one.end_time) for one in inner] == [
        (phase.name, phase.start_ns, phase.end_ns) for phase in phases()
    ]
    assert {one.parent.span_id for one in inner} == {server.context.span_id}


def test_the_trace_of_the_caller_goes_on(spans):
    server, *_ = spans(exchange_of(event=answered(), traceparent=f"00-{TRACE}-{SPAN}-01"))

    assert f"{server.context.trace_id:032x}" == TRACE
    assert f"{server.parent.span_id:016x}" == SPAN


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01"])
def test_what_is_no_trace_begins_one(spans, traceparent):
    server, *_ = spans(exchange_of(event=answered(), traceparent=traceparent))

    assert server.parent is None


def test_what_the_caller_does_not_sample_makes_no_spans(spans):
    assert spans(exchange_of(event=answered(), traceparent=f"00-{TRACE}-{SPAN}-00")) == []


def test_what_is_about_no_model_makes_no_spans(spans):
    assert spans(exchange_of(404)) == []


@pytest.mark.parametrize(
    ("status", "outcome", "code"),
    [
        (200, "success", StatusCode.UNSET),
        (422, "invalid", StatusCode.UNSET),
        (429, "rejected", StatusCode.UNSET),
        (500, "backend", StatusCode.ERROR),
        (504, "deadline", StatusCode.ERROR),
        (None, "cancelled", StatusCode.ERROR),
    ],
)
def test_our_failures_are_errors_and_callers_are_not(spans, status, outcome, code):
    server, *_ = spans(exchange_of(status, answered(outcome)))

    assert server.status.status_code == code
    assert server.status.description == (outcome if code == StatusCode.ERROR else None)
    assert server.attributes.get("http.response.status_code") == status


def test_spans_are_of_mcdrop_unless_the_variable_says_otherwise(spans, monkeypatch):
    (own, *_) = spans(exchange_of(event=answered()))
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    (named, *_) = spans(exchange_of(event=answered()))

    assert own.resource.attributes["service.name"] == "mcdrop"
    assert named.resource.attributes["service.name"] == "theirs"


@pytest.fixture
def collector(monkeypatch):
    """What an OpenTelemetry collector received."""
    received = []

    class Receive(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receive)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_sends_its_traces_before_it_ends(bundles, server, collector):
    with Served(Settings(bundles=bundles, traces=True), server.state.catalogue) as served:
        served.loaded().predict("digits", nets.images(2).tolist())
        served.post("/v1/models/digits/predict", {"inputs": [[1]]})
        served.get("/healthz/live")

    spans = [
        span
        for _, sent in collector
        for found in sent.resource_spans
        for part in found.scope_spans
        for span in part.spans
    ]
    assert {path for path, _ in collector} == {"/v1/traces"}
    servers = [span for span in spans if span.kind == 2]
    assert [span.name for span in servers] == [f"POST {ROUTE}"] * 2
    inner = sorted((span for span in spans if span.kind != 2), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in inner if span.parent_span_id == servers[0].span_id] == [
        "decode",
        "queue",
        "prefix",
        "suffix",
        "encode",
    ]
    for span in inner:
        assert servers[0].start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= servers[-1].end_time_unix_nano


def test_a_collector_that_does_not_answer_holds_up_no_end(monkeypatch):
    release, ended = threading.Event(), threading.Event()

    class Stuck(InMemorySpanExporter):
        def shutdown(self):
            release.wait(10)
            ended.set()

    monkeypatch.setattr(tracing, "_FLUSH_S", 0.01)
    Tracing(SimpleSpanProcessor(Stuck())).close()

    assert not ended.is_set()
    release.set()


def test_without_the_extra_traces_are_refused_and_nothing_else_is(bundles, monkeypatch):
    monkeypatch.delitem(sys.modules, "mcdrop.observability.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    with pytest.raises(InvalidConfig, match=r"pip install 'mcdrop\[otel\]'"):
        create_app(Settings(bundles=bundles, traces=True))
    create_app(Settings(bundles=bundles)).state.mcdrop.close()
