"""Logs on standard error: one line per request and per event, as text or JSON.

No line contains a body, a query string, or a header other than X-Request-Id, so no line contains a key.

The standard library suffices: structlog would add a dependency and configure the same handlers, and uvicorn and torch
log through `logging` in any case.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from mcdrop.observability.middleware import Exchange, current
from mcdrop.settings import Settings

_access = logging.getLogger("mcdrop.access")
# Machines call these every few seconds; only failures are of interest.
_PROBES = ("/healthz/", "/v2/health/", "/metrics")
_MAX_PATH = 200
_IN_MESSAGE = ("method", "path", "status")
_OURS = ("mcdrop", "uvicorn")


def configure(settings: Settings) -> None:
    """Configure logging. Other libraries log warnings and errors only.

    Args:
        settings: Settings with the format and the level.
    """
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
    """Log a request: as a warning if the server failed, and for successful probes at debug level.

    Args:
        exchange: The finished request.
    """
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
    """Formats a record as a JSON object: time (RFC 3339), level, logger, message and further fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record.

        Args:
            record: The record.

        Returns:
            One line of JSON.
        """
        document = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        # Not orjson, which refuses lone surrogates: the line would be lost.
        return json.dumps(document, default=str)


class TextLines(logging.Formatter):
    """Formats a record for people: the message, further fields, and the traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record.

        Args:
            record: The record.

        Returns:
            One line, and the lines of the traceback.
        """
        known = [f"{name}={value}" for name, value in _fields(record).items() if name not in _IN_MESSAGE]
        line = " ".join([_time(record), f"{record.levelname:<8}", record.getMessage(), *known])
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join(_printable(part) for part in (line, *trace))


def _printable(text: str) -> str:
    """Escape characters that could forge a line or move the cursor of a terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the further fields of a record, with the id of its request."""
    exchange = current()
    request = {"request_id": exchange.request_id} if exchange is not None else {}
    return {**getattr(record, "fields", {}), **request}
