"""One key for the whole server, as `Authorization: Bearer` or `X-API-Key`. Health stays open."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Unauthorized, answer_of

_OPEN = "/healthz/"


class RequireKey:
    """ASGI middleware: answers 401 before a body is read."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is open or carries the key; refuse the rest."""
        if scope["type"] != "http" or scope["path"].startswith(_OPEN) or self._matches(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        refusal = Unauthorized("send the server's key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
        await answer_of(refusal)(scope, receive, send)

    def _matches(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        sent = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(sent.encode("latin-1"), self._key)
