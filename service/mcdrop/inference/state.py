"""The parts of a running server, which the endpoints of one app share."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, TypeVar, cast

import anyio.to_thread
import torch
from fastapi import Depends, Request

from mcdrop.inference.batch import run_batch
from mcdrop.inference.batcher import Batcher, QueueLimits, RunBatch
from mcdrop.inference.catalogue import Catalogue, LoadedModel
from mcdrop.inference.device import resolve_device
from mcdrop.inference.query import RequestLimits
from mcdrop.inference.result import Result
from mcdrop.inference.scheduler import Slice
from mcdrop.observability.events import BatchFinished, CallFinished, Observer
from mcdrop.observability.metrics import Metrics, Reading
from mcdrop.settings import Settings
from mcdrop.wire.json import JsonParser
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.tunings import tuning_cache_at

_log = logging.getLogger("mcdrop")
_T = TypeVar("_T")
# A choice whose client has left cannot be stopped: a second one runs beside it, and a third waits.
_CHOOSERS = 2


@dataclass
class ServerState:
    """The parts of a running server.

    Attributes:
        settings: The settings.
        catalogue: The models.
        batcher: The queue and the compute thread.
        metrics: The metrics, which are also the first observer.
        json: The parser of JSON bodies.
        compute: Computes a batch, on the compute thread.
        observers: Told of finished calls and batches.
        started: Whether the bundles that were there at the start have been tried.
        ending: Whether the server is shutting down and finishes what runs.
    """

    settings: Settings
    catalogue: Catalogue
    batcher: Batcher = field(init=False)
    metrics: Metrics = field(init=False)
    json: JsonParser = field(default_factory=JsonParser)
    compute: RunBatch = run_batch
    observers: list[Observer] = field(default_factory=list)
    started: bool = False
    ending: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        limits = QueueLimits(settings.max_queue, settings.max_pending_ms / 1000, settings.batch_ms / 1000)
        set_threads = partial(torch.set_num_threads, settings.threads)
        set_threads()
        self.batcher = Batcher(self._run, limits, set_threads)
        self.metrics = Metrics(self._readings(), _about(settings))
        self.observers.append(self.metrics)
        self._loader = ThreadPoolExecutor(1, "loader", initializer=set_threads)
        self._chooser = ThreadPoolExecutor(_CHOOSERS, "chooser", initializer=set_threads)

    @staticmethod
    def of(settings: Settings) -> "ServerState":
        """Return the parts that settings describe.

        Args:
            settings: The settings.

        Returns:
            The parts that settings describe.

        Raises:
            InvalidInput: There is no such device.
        """
        repository = Repository(settings.bundles)
        device, tunings = resolve_device(settings.device), tuning_cache_at(settings.tunings)
        backends = settings.backends(device)
        return ServerState(settings, Catalogue(repository, device, tunings, settings.max_loaded_bytes, backends))

    @property
    def limits(self) -> RequestLimits:
        """The limits of one request."""
        return RequestLimits(self.settings.max_passes, self.settings.max_samples, self.settings.max_length)

    @property
    def unready(self) -> str:
        """Why no model can answer now; empty if one can."""
        if not self.batcher.alive:
            return "the compute thread died twice; restart the server."
        if self.ending:
            return "the server is shutting down."
        if not self.started:
            return "the bundles are being loaded."
        if not self.catalogue.loaded():
            return (
                "no bundle can be served. Publish one into the bundles folder (mcdrop publish, mcdrop train), or mount "
                "a folder of them: docker run -v $PWD/bundles:/bundles:ro. GET /v1/models says why a bundle is refused."
            )
        return ""

    async def model(self, name: str, version: int | None) -> LoadedModel:
        """Return a model, and load it off the event loop if it is not in memory.

        Args:
            name: The name of the model.
            version: The version; None for the current one.

        Returns:
            A model.

        Raises:
            UnknownModel: There is no such model.
            Unloaded: An operator took the model out of service.
            InvalidBundle: The bundle is refused.
        """
        found = self.catalogue.find(name, version)
        if found is None:
            await anyio.to_thread.run_sync(self.catalogue.expect, name, version)
            found = await self.on_loader(self.catalogue.get, name, version)
        return found

    async def on_loader(self, work: Callable[..., _T], *args: Any) -> _T:
        """Return the result of work on the catalogue, which runs on the loader thread.

        Args:
            work: A function.
            *args: Its arguments.

        Returns:
            The result of work on the catalogue, which runs on the loader thread.
        """
        return await asyncio.get_running_loop().run_in_executor(self._loader, partial(work, *args))

    async def on_chooser(self, work: Callable[..., _T], *args: Any) -> _T:
        """Return the result of a step of a choice, which runs on one of the chooser threads. It may take seconds.

        Args:
            work: A function.
            *args: Its arguments.

        Returns:
            The result of a step of a choice, which runs on one of the chooser threads.
        """
        return await asyncio.get_running_loop().run_in_executor(self._chooser, partial(work, *args))

    def call_finished(self, event: CallFinished) -> None:
        """Tell the observers that a call has finished.

        Args:
            event: The call.
        """
        for observer in self.observers:
            _notify(observer.call_finished, event)

    def close(self) -> None:
        """Stop the compute thread, the JSON process, the loader and the choosers."""
        self.batcher.close()
        self.json.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._chooser.shutdown(wait=False, cancel_futures=True)

    def _readings(self) -> tuple[Reading, ...]:
        def loaded_bytes() -> int:
            return sum(model.predictor.nbytes for model in self.catalogue.loaded())

        return (
            Reading(
                "mcdrop_pending_requests", "Requests that wait or are computed.", lambda: self.batcher.pending_requests
            ),
            Reading(
                "mcdrop_pending_seconds", "Computing that waits, by the measured speed.", lambda: self.batcher.pending_s
            ),
            Reading("mcdrop_loaded_bundles", "Bundles in memory.", lambda: len(self.catalogue.loaded())),
            Reading("mcdrop_loaded_bytes", "Weights of the bundles in memory.", loaded_bytes),
            Reading("mcdrop_ready", "1 if a model can answer, 0 otherwise.", lambda: not self.unready),
        )

    def _run(self, batch: Sequence[Slice]) -> Sequence[Result | Exception]:
        """Compute a batch on the compute thread, and tell the observers."""
        query = batch[0].ticket.query
        began, failed = time.perf_counter(), True
        try:
            results: Sequence[Result | Exception] = self.compute(batch)
            failed = False
        finally:
            event = BatchFinished(
                model=query.predictor.manifest.name,
                version=query.predictor.version,
                rows=sum(one.rows for one in batch),
                passes=query.passes,
                requests=len(batch),
                seconds=time.perf_counter() - began,
                failed=failed,
            )
            for observer in self.observers:
                _notify(observer.batch_finished, event)
        return results


def _about(settings: Settings) -> dict[str, str]:
    return {
        "version": version("mcdrop"),
        "torch": torch.__version__,
        "device": resolve_device(settings.device),
        "threads": str(settings.threads),
    }


def _notify(notify: Callable[[_T], None], event: _T) -> None:
    """Notify an observer. If it fails, no request is harmed."""
    try:
        notify(event)
    except Exception:  # noqa: BLE001 - it is logged
        _log.exception("an observer failed")


async def _state(request: Request) -> ServerState:
    return cast("ServerState", request.app.state.mcdrop)


State = Annotated[ServerState, Depends(_state)]
