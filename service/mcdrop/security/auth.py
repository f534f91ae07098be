"""Who may ask for what: keys as `Authorization: Bearer` or `X-API-Key`, and the origins whose pages may ask.

A key opens a scope: predict is everything but loading and unloading, admin is everything.
"""

import hmac
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from dropout_core.errors import McdropError
from mcdrop.errors import Forbidden, Unauthorized
from mcdrop.http.problems import error_response
from mcdrop.security.keys import InvalidKeys, Scope, digest_of, read_keys
from mcdrop.settings import Settings, is_loopback

_log = logging.getLogger("mcdrop")

_HEALTH = ("/healthz/", "/v2/health/")
_METRICS = "/metrics"
# All that stands below loads or unloads; what may come to stand there is an operator's too.
_ADMIN = "/v2/repository/models/"
_SENT = (
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "X-Request-Timeout-Ms",
    "X-Request-Id",
    "Inference-Header-Content-Length",
)
_EXPOSED = (
    "Inference-Header-Content-Length",
    "Retry-After",
    "X-Request-Id",
    *(f"Mcdrop-{name}" for name in ("Model", "Passes", "Seed", "Sampling", "Masks", "Branches", "Noise")),
)
_LOOK_AGAIN_S = 1.0


def guard(app: FastAPI, settings: Settings) -> None:
    """Put before an app what refuses callers. Raises InvalidKeys where the file of keys cannot be read.

    Origins come first: a browser asks about them without a key, and reads a refusal only where its origin may.
    """
    app.add_middleware(RequireKey, settings=settings, keys=Keys(settings))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=_SENT,
            expose_headers=_EXPOSED,
        )


class RequireKey:
    """ASGI middleware: answers 401 and 403 before a body is read."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: "Keys") -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._anonymous = anonymous_scope(settings)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass on who may; refuse the rest."""
        refusal = self._refusal(scope["path"], Headers(scope=scope)) if scope["type"] == "http" else None
        answer = self._app if refusal is None else error_response(refusal, scope["path"])
        await answer(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> McdropError | None:
        needed = scope_of(path, self._settings)
        if needed is None:
            return None
        sent = _sent(headers) if self._settings.asks_for_keys else ""
        has = self._keys.scope_of(sent) if sent else self._anonymous
        if has in {"admin", needed}:
            return None
        if sent and has is not None:
            return Forbidden("this key may only predict; it takes one that 'mcdrop key new NAME --scope admin' makes.")
        return Unauthorized("send the server's key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")


class Keys:
    """The keys a server knows: that of its settings, and those of a file, which is read again when it has changed."""

    def __init__(self, settings: Settings) -> None:
        self._own = settings.api_key.get_secret_value().encode() if settings.api_key is not None else None
        self._path = settings.keys
        self._looked = time.monotonic()
        self._stamp = _stamp(self._path) if self._path is not None else None
        self._scopes = _scopes(self._path) if self._path is not None else {}

    def scope_of(self, sent: str) -> Scope | None:
        """What a key opens; None for a wrong one. How long it takes tells nothing of the keys there are.

        The file's are found by a hash, of which a caller who does not know the key cannot choose a digit.
        """
        if self._own is not None and hmac.compare_digest(sent.encode("latin-1"), self._own):
            return "admin"
        self._look_again()
        return self._scopes.get(digest_of(sent))

    def _look_again(self) -> None:
        """Read the file if it has changed. One that cannot be read changes nothing: those who may ask still may."""
        if self._path is None or time.monotonic() < self._looked + _LOOK_AGAIN_S:
            return
        self._looked = time.monotonic()
        before, self._stamp = self._stamp, _stamp(self._path)
        if self._stamp == before:
            return
        try:
            self._scopes = _scopes(self._path)
        except InvalidKeys as error:
            _log.error("%s The keys that were read before stay.", error)
        else:
            _log.info("the keys in %s were read again; there are %d.", self._path, len(self._scopes))


def scope_of(path: str, settings: Settings) -> Scope | None:
    """The scope that a path takes; None where it is open."""
    if (settings.open_health and path.startswith(_HEALTH)) or (settings.open_metrics and path == _METRICS):
        return None
    return "admin" if path.startswith(_ADMIN) else "predict"


def anonymous_scope(settings: Settings) -> Scope | None:
    """What a caller without a key may do: everything on a machine of one's own, where there are no keys."""
    if not settings.asks_for_keys and is_loopback(settings.host):
        return "admin"
    return "predict" if settings.allow_anonymous else None


def _sent(headers: Headers) -> str:
    """The key that was sent, or nothing."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _scopes(path: Path) -> Mapping[str, Scope]:
    return {key.sha256: key.scope for key in read_keys(path)}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - once a second, on the event loop: no more than the call
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
