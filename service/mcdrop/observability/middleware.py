"""Requests and their answers, of any path: an id for each, and word of its end to those who watch."""

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
# What a caller sends stands in every line of a log: nothing that could end a line, or fill it.
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Exchange:
    """A request, and what became of it.

    Times are of time.time_ns. scope: as ASGI has it. status: None until an answer has begun. call: what is known of a
    request about a model.
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
        """Of HTTP."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """As it was asked for, without the query."""
        return str(self.scope["path"])

    @property
    def route(self) -> str:
        """The path with names in the place of what callers choose; empty for one that does not exist."""
        return str(getattr(self.scope.get("route"), "path", ""))

    @property
    def failed(self) -> bool:
        """Whether it was our fault that there was no good answer, or there was none at all."""
        return self.status is None or self.status >= 500

    @property
    def client(self) -> str:
        """The address it came from; empty when there is none."""
        return str((self.scope.get("client") or ("",))[0])


Watcher = Callable[[Exchange], None]
# Never taken back: what is logged above the app, of a request that failed, has its id too.
_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def current() -> Exchange | None:
    """What is going on where this is called."""
    return _current.get()


class ExchangeMiddleware:
    """ASGI middleware: answers carry X-Request-Id, the caller's own where it is safe to repeat, and watchers are told.

    watchers: called on the event loop after the last byte.
    """

    def __init__(self, app: ASGIApp, watchers: Sequence[Watcher]) -> None:
        self._app, self._watchers = app, watchers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look at what comes back."""
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
            exchange.status = exchange.status or 500  # what is above answers so
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
    """The id of a request: what was sent where it is safe to repeat, a new one otherwise."""
    return sent if _SAFE_ID.fullmatch(sent) else uuid.uuid4().hex


def _tell(watcher: Watcher, exchange: Exchange) -> None:
    """Tell somebody who watches. Whoever stumbles harms no request."""
    try:
        watcher(exchange)
    except Exception:  # noqa: BLE001 - told in the log
        _log.exception("a watcher failed")
