"""OpenTelemetry traces: one span per request about a model, and one per phase.

OpenTelemetry's own OTEL_* variables say where traces are sent, how many are sampled and how callers' traces are
continued. Importing this module needs the extra `otel`.
"""

import threading
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

from mcdrop.observability.middleware import Exchange

_FLUSH_S = 2.0


class Tracing:
    """Makes spans of requests and hands them to a processor.

    Args:
        processor: Receives the finished spans.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last, because the last one wins.
        ours = Resource({"service.name": "mcdrop", "service.version": version("mcdrop")})
        resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("mcdrop", version("mcdrop"))

    @staticmethod
    def to_collector() -> "Tracing":
        """Return a tracing that sends its spans over OTLP/HTTP from its own thread."""
        return Tracing(BatchSpanProcessor(OTLPSpanExporter()))

    def exchanged(self, exchange: Exchange) -> None:
        """Make the spans of a request about a model, with the times of its phases.

        Args:
            exchange: The finished request.
        """
        event = exchange.call
        if event is None:
            return
        span = self._tracer.start_span(
            f"{exchange.method} {exchange.route}",
            context=extract(dict(exchange.headers)),
            kind=SpanKind.SERVER,
            start_time=exchange.began_ns,
            attributes=_attributes(exchange),
        )
        if span.is_recording():
            inside = set_span_in_context(span)
            for phase in event.phases:
                self._tracer.start_span(phase.name, inside, start_time=phase.start_ns).end(phase.end_ns)
            if exchange.failed:
                span.set_status(StatusCode.ERROR, event.outcome)
        span.end(exchange.ended_ns)

    def close(self) -> None:
        """Send the remaining spans, waiting at most 2 s."""
        last = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        last.start()
        last.join(_FLUSH_S)


def _attributes(exchange: Exchange) -> dict[str, str | int]:
    """Return the attributes that a sampler may look at. Names follow OpenTelemetry's conventions where they exist."""
    known: dict[str, str | int | None] = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "url.path": exchange.path,
        "http.response.status_code": exchange.status,
        "client.address": exchange.client,
        "mcdrop.request_id": exchange.request_id,
    }
    event = exchange.call
    if event is not None:
        known |= {f"mcdrop.{name}": getattr(event, name) for name in ("model", "version", "outcome", "rows", "passes")}
    return {name: value for name, value in known.items() if value is not None}
