"""The app: assembly only."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TypeVar

import anyio.to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from dropout_core.errors import McdropError
from models.repository import Repository
from models.tunings import tunings_at
from service.auth import RequireKey
from service.catalogue import Catalogue
from service.compute import Compute, device_of
from service.errors import on_http_error, on_invalid_path, on_mcdrop_error, on_unexpected_error
from service.routes import health, models, predict
from service.settings import Settings
from service.state import State

_log = logging.getLogger("mcdrop")
OnReady = Callable[[Catalogue], None]
T = TypeVar("T")


def create_app(settings: Settings, on_ready: OnReady | None = None) -> FastAPI:
    """A server of the bundles in settings.bundles. on_ready: called when those there are have been loaded."""
    state = State(
        settings,
        Catalogue(Repository(settings.bundles), device_of(settings.device), tunings_at(settings.tunings)),
        Compute(settings.threads),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(state, on_ready))
        yield
        loading.cancel()
        state.compute.close()

    app = FastAPIOffline(
        title="mcdrop",
        version=version("mcdrop"),
        description="Monte Carlo dropout over HTTP: predictive mean, variance and entropies, and what to label next.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.mcdrop = state
    for router in (health.router, models.router, predict.router):
        app.include_router(router)
    app.add_exception_handler(McdropError, on_mcdrop_error)
    app.add_exception_handler(RequestValidationError, on_invalid_path)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_unexpected_error)
    if settings.api_key is not None:
        app.add_middleware(RequireKey, key=settings.api_key.get_secret_value())
    return app


async def _load(state: State, on_ready: OnReady | None) -> None:
    """Load the newest bundles: the server is live meanwhile, and not ready. Old versions are only looked at, after."""
    await _aside(state.catalogue.load_newest)
    state.started = True
    if on_ready is not None:
        on_ready(state.catalogue)
    for found in await _aside(state.catalogue.states):
        if found.state == "refused":
            _log.warning("%s/%s is not served: %s", found.name, found.version, found.reason)


async def _aside(work: Callable[[], list[T]]) -> list[T]:
    """What some work on files finds, off the event loop; nothing, and a line in the log, where they cannot be read."""
    try:
        return await anyio.to_thread.run_sync(work)
    except OSError as error:
        _log.error("the bundles cannot be read: %s", error)
        return []
