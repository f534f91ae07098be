"""Assembles the FastAPI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from dropout_core.errors import McdropError
from mcdrop.api import health, metrics
from mcdrop.api.document import complete_document
from mcdrop.api.oip import repository
from mcdrop.api.oip import routes as oip
from mcdrop.api.v1 import models
from mcdrop.api.v1.predict import route as predict
from mcdrop.api.v1.rank import route as rank
from mcdrop.http.problems import on_http_error, on_invalid_path, on_mcdrop_error, on_unexpected_error
from mcdrop.inference.catalogue import Catalogue
from mcdrop.inference.state import ServerState
from mcdrop.security.auth import guard
from mcdrop.server.observers import add_observers
from mcdrop.settings import Settings

_log = logging.getLogger("mcdrop")
OnReady = Callable[[Catalogue], None]
# Polled, because mounted folders do not notify of changes.
_WATCH_S = 2.0


def create_app(settings: Settings | None = None, on_ready: OnReady | None = None) -> FastAPI:
    """Return the application that serves a folder of bundles.

    It is also a factory for uvicorn: `uvicorn --factory mcdrop.server.app:create_app`.

    Args:
        settings: Settings of the server; by default those of the environment and the settings file.
        on_ready: Called with the catalogue when the bundles have been loaded.

    Returns:
        The application.

    Raises:
        McdropError: A setting is wrong, or a file that it names cannot be used.
    """
    settings = Settings() if settings is None else settings
    state = ServerState.of(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(state, on_ready))
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        state.close()
        await anyio.to_thread.run_sync(close_observers)

    app = FastAPIOffline(
        title="mcdrop",
        version=version("mcdrop"),
        description="Monte Carlo dropout over HTTP: predictive mean, variance and entropies, and what to label next.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.mcdrop = state
    # The most frequent come first: routes are tried in order.
    for router in (
        predict.router,
        oip.router,
        rank.router,
        models.router,
        health.router,
        metrics.router,
        repository.router,
    ):
        app.include_router(router)
    document = app.openapi
    app.openapi = cache(lambda: complete_document(document(), settings))  # type: ignore[method-assign] # as FastAPI has it
    app.add_exception_handler(McdropError, on_mcdrop_error)
    app.add_exception_handler(RequestValidationError, on_invalid_path)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_unexpected_error)
    try:
        guard(app, settings)
        close_observers = add_observers(app, state)
    except McdropError:
        state.close()
        raise
    return app


async def _watch(state: ServerState, on_ready: OnReady | None) -> None:
    """Load the newest bundles, then new versions as they appear. Until the first load ends, the server is not ready."""
    await _refresh(state)
    state.started = True
    if on_ready is not None:
        on_ready(state.catalogue)
    with suppress(OSError):  # reported when they were loaded
        await anyio.to_thread.run_sync(state.catalogue.states)  # old versions are only verified, and after the new
    while state.settings.watch:
        await asyncio.sleep(_WATCH_S)
        await _refresh(state)


async def _refresh(state: ServerState) -> None:
    try:
        await state.on_loader(state.catalogue.refresh)
    except OSError as error:
        _log.error("the bundles cannot be read: %s", error)
    except Exception:  # noqa: BLE001 - the next attempt may succeed
        _log.exception("looking for bundles failed")
