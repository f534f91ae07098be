"""Callers, and a desk that serves them by hand."""

import math
import threading

from mcdrop.inference.batcher import QueueLimits
from mcdrop.inference.scheduler import Ticket

PATIENCE_S = 60
ROOMY = QueueLimits(requests=1000, pending_s=math.inf, batch_s=1e9)


class Caller:
    """Somebody who waits for some rows. told: everything that came, in order."""

    def __init__(self, name, rows=1, *, key="key", cost=1.0, deadline=math.inf):
        self.told, self.ended = [], threading.Event()
        self.ticket = Ticket(name, key, rows, cost, deadline, self._part, self._end)

    def _part(self, part):
        assert not self.ended.is_set()
        self.told.append(part)

    def _end(self, error):
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()

    @property
    def answer(self):
        """All rows, once they are there."""
        assert self.ended.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        assert [part.stop for part in self.told[:-1]] == [part.start for part in self.told[1:]]
        return [row for part in self.told for row in part.result]


def rows_of(name, start, stop):
    """What `Desk` answers."""
    return [(name, row) for row in range(start, stop)]


class Desk:
    """A `run`, and what it was given. held: a batch is begun, and ended when `finish` is called."""

    def __init__(self, *, held=False, answer=None):
        self.batches, self.threads, self.held = [], [], held
        self._answer = answer or (lambda batch: [rows_of(*one) for one in batch])
        self._begun, self._may_end = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, batch):
        batch = [(one.ticket.query, one.start, one.stop) for one in batch]
        self.batches.append(batch)
        self.threads.append(threading.current_thread())
        if self.held:
            self._begun.release()
            assert self._may_end.acquire(timeout=PATIENCE_S)
        return self._answer(batch)

    def begun(self):
        """Once the next batch has begun."""
        assert self._begun.acquire(timeout=PATIENCE_S)
        return self.batches[-1]

    def finish(self, batches=1):
        self._may_end.release(batches)

    def let_go(self):
        self.held = False
        self.finish(1)


def submit(batcher, *callers):
    for caller in callers:
        batcher.submit(caller.ticket)
    return callers


def busy(batcher, desk, name="busy", **more):
    """Somebody whose batch has begun and is held."""
    (caller,) = submit(batcher, Caller(name, **more))
    desk.begun()
    return caller


class Clock:
    """A clock that stands still, unless it is moved."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter

    def time_ns(self):
        return int(self.now * 1e9)


def fails_for(*bad):
    """An answer that raises for a batch with one of these in it."""

    def answer(batch):
        for name, *_ in batch:
            if name in bad:
                raise ValueError(f"{name} fails")
        return [rows_of(*one) for one in batch]

    return answer


def deadly(batch):
    """What ends a thread."""
    if batch[0][0] == "deadly":
        raise SystemExit("killed")
    return [rows_of(*one) for one in batch]
