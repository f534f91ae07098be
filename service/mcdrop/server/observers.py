"""Who watches a server: assembly only."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI

from mcdrop.inference.state import ServerState
from mcdrop.observability.logs import log_exchange
from mcdrop.observability.middleware import ExchangeMiddleware, Watcher
from mcdrop.settings import InvalidConfig

if TYPE_CHECKING:
    from mcdrop.observability.tracing import Tracing


def watch(app: FastAPI, state: ServerState) -> Callable[[], None]:
    """Let requests be counted and logged, and traced where the settings say so.

    Returns what is to be called at the end, off the event loop. Raises InvalidConfig where the extra for traces is not
    installed.
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
