"""A server whose engine waits at a gate, so that a test decides what happens meanwhile."""

import asyncio
import json
import threading
from dataclasses import dataclass, field, replace

from mcdrop.inference.cost import RowCost
from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served
from tests.support.fakes import OneModel

PATIENCE_S = 60
ROWS = nets.images(12, seed=3).int().tolist()
PATH = "/v1/models/digits/predict"
CHEAP = RowCost(0.0, 1e-9)


@dataclass
class Seen:
    """An observer that keeps all it is told."""

    told: list = field(default_factory=list)
    batches: list = field(default_factory=list)

    def call_finished(self, event):
        self.told.append(event)

    def batch_finished(self, event):
        self.batches.append(event)

    @property
    def outcomes(self):
        return [event.outcome for event in self.told]

    @staticmethod
    def phases_of(event):
        return [phase.name for phase in event.phases]


class Gate:
    """An engine that waits at a gate when it is shut, and counts who comes."""

    def __init__(self, engine):
        self._engine = engine
        self.rows, self.open, self.reached = [], threading.Event(), threading.Event()
        self.open.set()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def run(self, weights, inputs, *args):
        self.rows.append(len(next(iter(inputs.values()))))
        self.reached.set()
        assert self.open.wait(PATIENCE_S)
        yield from self._engine.run(weights, inputs, *args)

    def shut(self):
        self.reached.clear()
        self.open.clear()


class Place:
    """A server of digits with an engine behind a gate, and what is told of its requests."""

    def __init__(self, digits, cost, **settings):
        self.gate, self.seen = Gate(digits.engine), Seen()
        catalogue = OneModel(replace(digits, engine=self.gate), cost)
        catalogue.may_load.set()
        self.served = Served(Settings(watch=False, **settings), catalogue)
        self.state = self.served.state
        self.state.observers.append(self.seen)

    async def ask(self, rows=ROWS, path=PATH, headers=None, **fields):
        body = json.dumps({"inputs": rows, **fields})
        return await self.served._http.post(path, content=body, headers=headers)

    def run(self, coroutine):
        return self.served._runner.run(asyncio.wait_for(coroutine, PATIENCE_S))

    async def until(self, happened):
        await self.served._until(happened)

    async def reached(self):
        """Once a batch stands at the gate."""
        await self.until(self.gate.reached.is_set)

    async def pending(self, count):
        """Once so many wait or run."""
        await self.until(lambda: self.state.batcher.pending_requests == count)
