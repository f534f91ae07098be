"""Access control: API keys as `Authorization: Bearer` or `X-API-Key`, and the origins of pages that may call (CORS).

A key has a scope: `predict` is everything but loading and unloading models, `admin` is everything.
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
# Every path below it loads or unloads models, and so needs the scope admin.
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
    """Add the middleware that checks keys and origins.

    The check of origins comes first: a browser sends its preflight request without a key, and its page may read a
    refusal only if its origin is allowed.

    Args:
        app: The application.
        settings: Settings of the server.

    Raises:
        InvalidKeys: The file of keys cannot be read.
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
    """ASGI middleware that answers 401 or 403 before the body is read.

    Args:
        app: The application.
        settings: Settings of the server.
        keys: The keys that the server accepts.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: "Keys") -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._anonymous = anonymous_scope(settings)

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass a permitted request on; refuse the others."""
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
    """The keys that a server accepts: the key of its settings, and the keys of a file, which is read when it changes.

    Args:
        settings: Settings of the server.

    Raises:
        InvalidKeys: The file of keys cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self._own = settings.api_key.get_secret_value().encode() if settings.api_key is not None else None
        self._path = settings.keys
        self._looked = time.monotonic()
        self._stamp = _stamp(self._path) if self._path is not None else None
        self._scopes = _scopes(self._path) if self._path is not None else {}

    def scope_of(self, sent: str) -> Scope | None:
        """Return the scope of a key. The time it takes does not depend on how much of a key is right.

        Keys of the file are found by their hash, whose digits a caller without the key cannot choose.

        Args:
            sent: The key that the caller sent.

        Returns:
            Its scope, or None for an unknown key.
        """
        if self._own is not None and hmac.compare_digest(sent.encode("latin-1"), self._own):
            return "admin"
        self._look_again()
        return self._scopes.get(digest_of(sent))

    def _look_again(self) -> None:
        """Read the file if it has changed. If it cannot be read, the keys that were read before stay valid."""
        if self._path is None or time.monotonic() < self._looked + _LOOK_AGAIN_S:
            return
        self._looked = time.monotonic()
        before, self._stamp = self._stamp, _stamp(self._path)
        if self._stamp == before:
            return
        try:
            self._scopes = _scopes(self._path)
        except InvalidKeys as error:
            _log.error("%s The keys that were read before stay valid.", error)
        else:
            _log.info("read %d keys from %s, which has changed", len(self._scopes), self._path)


def scope_of(path: str, settings: Settings) -> Scope | None:
    """Return the scope that a path requires.

    Args:
        path: Path of the request.
        settings: Settings of the server.

    Returns:
        The scope, or None for a path that is open to everyone.
    """
    if (settings.open_health and path.startswith(_HEALTH)) or (settings.open_metrics and path == _METRICS):
        return None
    return "admin" if path.startswith(_ADMIN) else "predict"


def anonymous_scope(settings: Settings) -> Scope | None:
    """Return the scope of a caller without a key.

    Args:
        settings: Settings of the server.

    Returns:
        "admin" on loopback without keys, "predict" if anonymous callers are allowed, None otherwise.
    """
    if not settings.asks_for_keys and is_loopback(settings.host):
        return "admin"
    return "predict" if settings.allow_anonymous else None


def _sent(headers: Headers) -> str:
    """Return the key that was sent, or an empty string."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _scopes(path: Path) -> Mapping[str, Scope]:
    return {key.sha256: key.scope for key in read_keys(path)}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return values that change with the content of a file, or None if there is no file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - on the event loop once a second, so as cheap as it can be
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
