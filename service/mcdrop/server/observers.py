"""Connects metrics, logs and traces to the server."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI

from mcdrop.inference.state import ServerState
from mcdrop.observability.logs import log_exchange
from mcdrop.observability.middleware import ExchangeMiddleware, Watcher
from mcdrop.settings import InvalidConfig

if TYPE_CHECKING:
    from mcdrop.observability.tracing import Tracing


def add_observers(app: FastAPI, state: ServerState) -> Callable[[], None]:
    """Count and log every request, and trace it if the settings say so.

    Args:
        app: The application.
        state: State of the server.

    Returns:
        A function to call at shutdown, outside the event loop: it sends the traces that are left.

    Raises:
        InvalidConfig: Traces are on, but the extra that they need is not installed.
    """
    watchers: list[Watcher] = [state.metrics.exchanged, log_exchange]
    tracing = _tracing() if state.settings.traces else None
    if tracing is not None:
        watchers.append(tracing.exchanged)
    app.add_middleware(ExchangeMiddleware, watchers=watchers)
    return tracing.close if tracing is not None else lambda: None


def _tracing() -> "Tracing":
    try:
        from mcdrop.observability.tracing import Tracing
    except ImportError as error:
        raise InvalidConfig(
            f"traces are on and {error.name} is not installed: pip install 'mcdrop[otel]', or set MCDROP_TRACES=0."
        ) from error
    return Tracing.to_collector()
