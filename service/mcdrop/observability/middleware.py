"""ASGI middleware: assigns each request an id, and reports the finished exchange to logs, metrics and traces."""

import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcdrop.observability.events import CallFinished

_log = logging.getLogger("mcdrop")
# The id is part of every log line, so it must not end a line, or fill it.
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Exchange:
    """A request and its response.

    Attributes:
        scope: The ASGI scope.
        headers: Headers of the request.
        request_id: Id of the request.
        began_ns: Start, in nanoseconds since 1970 (`time.time_ns`).
        ended_ns: End, likewise.
        status: HTTP status; None until the response has begun.
        call: The model, outcome and phases of a request about a model.
    """

    scope: Scope
    headers: Headers
    request_id: str
    began_ns: int
    ended_ns: int = 0
    status: int | None = field(default=None)
    call: CallFinished | None = field(default=None)

    @property
    def method(self) -> str:
        """HTTP method."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """Path of the request, without the query string."""
        return str(self.scope["path"])

    @property
    def route(self) -> str:
        """Path template of the route, such as /v1/models/{name}/predict; empty for an unknown path."""
        return str(getattr(self.scope.get("route"), "path", ""))

    @property
    def failed(self) -> bool:
        """Whether the server failed, or sent no response."""
        return self.status is None or self.status >= 500

    @property
    def client(self) -> str:
        """Address of the client; empty if it is unknown."""
        return str((self.scope.get("client") or ("",))[0])


Watcher = Callable[[Exchange], None]
# Never reset, so that a failure logged above the application has the id of its request too.
_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def current() -> Exchange | None:
    """Return the exchange of the current request, if any."""
    return _current.get()


class ExchangeMiddleware:
    """Adds X-Request-Id to each response and reports each finished exchange.

    Args:
        app: The application.
        watchers: Functions to call with each exchange, on the event loop, after the last byte.
    """

    def __init__(self, app: ASGIApp, watchers: Sequence[Watcher]) -> None:
        self._app, self._watchers = app, watchers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, and report it when it ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = Exchange(scope, headers, id_of(headers.get("x-request-id", "")), time.time_ns())
        _current.set(exchange)
        own = (b"x-request-id", exchange.request_id.encode())

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), own]}
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            exchange.status = exchange.status or 500  # the server above responds with 500
            raise
        finally:
            exchange.ended_ns = time.time_ns()
            for watcher in self._watchers:
                _tell(watcher, exchange)


def attach_call(event: CallFinished) -> None:
    """Attach a finished call to the exchange that is being handled, if there is one.

    Args:
        event: The call that the current request made.
    """
    exchange = current()
    if exchange is not None:
        exchange.call = event


def id_of(sent: str) -> str:
    """Return the id of a request.

    Args:
        sent: Value of the header X-Request-Id.

    Returns:
        The value if it is safe to repeat, a new id otherwise.
    """
    return sent if _SAFE_ID.fullmatch(sent) else uuid.uuid4().hex


def _tell(watcher: Watcher, exchange: Exchange) -> None:
    """Report an exchange. An error of a watcher does not harm the request."""
    try:
        watcher(exchange)
    except Exception:  # noqa: BLE001 - logged
        _log.exception("a watcher failed")
