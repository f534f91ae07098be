"""What the server says on standard error: one line for each request and each event, text or JSON.

No line has a body, a header but X-Request-Id, or a query string, so none has a key.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from mcdrop.observability.middleware import Exchange, current
from mcdrop.settings import Settings

_access = logging.getLogger("mcdrop.access")
# Asked every few seconds by machines, and of no interest while all is well.
_PROBES = ("/healthz/", "/v2/health/", "/metrics")
_MAX_PATH = 200
_IN_MESSAGE = ("method", "path", "status")
_OURS = ("mcdrop", "uvicorn")


def configure(settings: Settings) -> None:
    """Say everything on standard error, as settings ask. Of other libraries warnings and errors only."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else TextLines())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=True)


def log_exchange(exchange: Exchange) -> None:
    """The line of a request: a warning where we failed; of probes that went well only when debugging."""
    probe = exchange.path.startswith(_PROBES)
    level = logging.WARNING if exchange.failed else logging.DEBUG if probe else logging.INFO
    if not _access.isEnabledFor(level):
        return
    path, status = exchange.path[:_MAX_PATH], exchange.status
    fields: dict[str, Any] = {"method": exchange.method, "path": path, "status": status}
    event = exchange.call
    if event is not None:
        fields |= {"model": event.model, "version": event.version, "outcome": event.outcome}
        fields |= {"rows": event.rows, "passes": event.passes}
    fields |= {"ms": round((exchange.ended_ns - exchange.began_ns) / 1e6, 3), "client": exchange.client}
    _access.log(level, "%s %s %s", exchange.method, path, status or "-", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A JSON object for each record: time (RFC 3339), level, logger, message, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        document = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        # Not orjson: it refuses half a character, and a line that cannot be written is lost.
        return json.dumps(document, default=str)


class TextLines(logging.Formatter):
    """For people: the message, what else is known, and a traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and those of a traceback."""
        known = [f"{name}={value}" for name, value in _fields(record).items() if name not in _IN_MESSAGE]
        line = " ".join([_time(record), f"{record.levelname:<8}", record.getMessage(), *known])
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join(_printable(part) for part in (line, *trace))


def _printable(text: str) -> str:
    """A text with what could forge a line, or move a terminal's cursor, spelled out."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record was given beside its message, and the request it belongs to."""
    exchange = current()
    request = {"request_id": exchange.request_id} if exchange is not None else {}
    return {**getattr(record, "fields", {}), **request}
