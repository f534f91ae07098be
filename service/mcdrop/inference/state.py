"""What the endpoints of one app share."""

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

from mcdrop.inference.batch import Result, Work, run_batch
from mcdrop.inference.batcher import Batcher, QueueLimits, RunBatch
from mcdrop.inference.catalogue import Catalogue, LoadedModel
from mcdrop.inference.device import resolve_device
from mcdrop.inference.query import RequestLimits
from mcdrop.inference.scheduler import Slice
from mcdrop.observability.events import BatchFinished, CallFinished, Observer
from mcdrop.observability.metrics import Metrics, Reading
from mcdrop.settings import Settings
from mcdrop.wire.json import parse_json
from mcdrop.wire.json_worker import JsonWorker
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.tunings import tuning_cache_at

_log = logging.getLogger("mcdrop")
T = TypeVar("T")
# Parsing so many bytes keeps Python's lock, and with it the event loop, for some milliseconds.
_LARGE_JSON_BYTES = 2 * 2**20
# What nobody waits for any more cannot be stopped: a second one goes on beside it, and a third waits.
_CHOOSERS = 2


@dataclass
class ServerState:
    """The parts of a running server.

    started: the bundles there were at start have been tried. ending: it was told to stop, and finishes what runs.
    """

    settings: Settings
    catalogue: Catalogue
    batcher: Batcher = field(init=False)
    metrics: Metrics = field(init=False)
    parser: JsonWorker = field(default_factory=JsonWorker)
    compute: RunBatch = run_batch
    observers: list[Observer] = field(default_factory=list)
    started: bool = False
    ending: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        bounds = QueueLimits(settings.max_queue, settings.max_pending_ms / 1000, settings.batch_ms / 1000)
        threads = partial(torch.set_num_threads, settings.threads)
        torch.set_num_threads(settings.threads)
        self.batcher = Batcher(self._run, bounds, threads)
        self.metrics = Metrics(self._readings(), _about(settings))
        self.observers.append(self.metrics)
        self._loader = ThreadPoolExecutor(1, "loader", initializer=threads)
        self._chooser = ThreadPoolExecutor(_CHOOSERS, "chooser", initializer=threads)

    @staticmethod
    def of(settings: Settings) -> "ServerState":
        """The parts that settings ask for. Raises InvalidInput where there is no such device."""
        repository = Repository(settings.bundles)
        device, tunings = resolve_device(settings.device), tuning_cache_at(settings.tunings)
        backends = settings.backends(device)
        return ServerState(settings, Catalogue(repository, device, tunings, settings.max_loaded_bytes, backends))

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for."""
        return RequestLimits(self.settings.max_passes, self.settings.max_samples, self.settings.max_length)

    @property
    def unready(self) -> str:
        """Why no model can be asked now; empty when one can."""
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
        """A model; one that is not in memory is loaded off the event loop."""
        found = self.catalogue.find(name, version)
        if found is None:
            await anyio.to_thread.run_sync(self.catalogue.expect, name, version)
            found = await self.loading(self.catalogue.get, name, version)
        return found

    async def loading(self, work: Callable[..., T], *args: Any) -> T:
        """The result of some work on the catalogue, by the one thread that loads."""
        return await asyncio.get_running_loop().run_in_executor(self._loader, partial(work, *args))

    async def choosing(self, work: Callable[..., T], *args: Any) -> T:
        """The result of some work on a choice, by the few threads that choose: it may take seconds."""
        return await asyncio.get_running_loop().run_in_executor(self._chooser, partial(work, *args))

    def parse_json(self, body: bytes) -> Any:
        """The value of a JSON body, as `codec.parse_json`; a large one has arrays for inputs. Raises MalformedJson."""
        parsed = self.parser.parse(body) if len(body) > _LARGE_JSON_BYTES else None
        return parse_json(body) if parsed is None else parsed

    def call_finished(self, event: CallFinished) -> None:
        """Tell those who watch that a request has been answered."""
        for observer in self.observers:
            _watch(observer.call_finished, event)

    def close(self) -> None:
        """End what computes, what parses, what loads and what chooses."""
        self.batcher.close()
        self.parser.close()
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
            Reading("mcdrop_ready", "1 when a model can be asked, 0 otherwise.", lambda: not self.unready),
        )

    def _run(self, batch: Sequence[Slice]) -> Sequence[Result | Exception]:
        """What the compute thread does with a batch."""
        work: Work = batch[0].ticket.work
        began, failed = time.perf_counter(), True
        try:
            results = self.compute(batch)
            failed = False
        finally:
            event = BatchFinished(
                model=work.model.name,
                version=work.model.version,
                rows=sum(one.rows for one in batch),
                passes=work.query.passes,
                requests=len(batch),
                seconds=time.perf_counter() - began,
                failed=failed,
            )
            for observer in self.observers:
                _watch(observer.batch_finished, event)
        return results


def _about(settings: Settings) -> dict[str, str]:
    return {
        "version": version("mcdrop"),
        "torch": torch.__version__,
        "device": resolve_device(settings.device),
        "threads": str(settings.threads),
    }


def _watch(tell: Callable[[T], None], event: T) -> None:
    """Tell somebody who watches. Whoever stumbles harms no request."""
    try:
        tell(event)
    except Exception:  # noqa: BLE001 - told in the log
        _log.exception("an observer failed")


async def _state(request: Request) -> ServerState:
    return cast("ServerState", request.app.state.mcdrop)


State = Annotated[ServerState, Depends(_state)]
