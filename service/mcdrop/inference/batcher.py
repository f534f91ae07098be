"""A bounded queue and the thread that computes. Work-conserving: a free thread takes what waits; there is no timer."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from mcdrop.errors import ComputeDied, DeadlineExceeded, Draining, QueueFull
from mcdrop.inference.scheduler import Slice, SliceResult, Ticket, next_batch

_log = logging.getLogger("mcdrop")
# How fast the measured speed follows the last batches.
_MEMORY = 0.8
_SLOWEST, _FASTEST = 100.0, 0.1
_LEAST_S = 1e-9
_RESTARTS = 1

RunBatch = Callable[[Sequence[Slice]], Sequence[Any]]


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait: requests, and seconds of computing. batch_s: the seconds that one batch should take."""

    requests: int
    pending_s: float
    batch_s: float


class Batcher:
    """Computes tickets in batches, on a thread of its own.

    run: the results of the slices of a batch, an exception in the place of one that failed alone; where it raises, each
    slice is tried once by itself. prepare: called on the thread before anything else.
    """

    def __init__(self, run: RunBatch, bounds: QueueLimits, prepare: Callable[[], None] = lambda: None) -> None:
        self._run, self._bounds, self._prepare = run, bounds, prepare
        self._waiting: list[Ticket] = []
        self._running: list[Slice] = []
        self._changed = threading.Condition()
        # What the last batches took, what their tickets said that they would, and the share of it.
        self._spent = self._said = bounds.batch_s
        self._slowness = 1.0
        self._restarts = 0
        self._ending, self._dead = False, False
        self._start()

    @property
    def alive(self) -> bool:
        """Whether a thread computes."""
        return not self._dead

    @property
    def pending_requests(self) -> int:
        """The tickets that wait or run."""
        with self._changed:
            return len(self._queued())

    @property
    def pending_s(self) -> float:
        """The seconds of computing that wait, by the measured speed."""
        with self._changed:
            return self._pending_s()

    def submit(self, ticket: Ticket) -> None:
        """Let a ticket wait. Raises QueueFull, Draining or ComputeDied where it may not."""
        with self._changed:
            if self._ending:
                raise Draining("the server is shutting down; ask another one, or later.")
            if self._dead:
                raise ComputeDied("the compute thread of this server died; tell the operator to restart it.")
            pending_s, waiting = self._pending_s(), len(self._cut()) + len(self._waiting)
            own_s, bounds, wait_s = ticket.cost * self._slowness, self._bounds, max(1, ceil(pending_s))
            if waiting >= bounds.requests or (waiting and pending_s + own_s > bounds.pending_s):
                raise QueueFull(
                    f"{waiting} requests of {pending_s:.1f} s wait, and this one takes {own_s:.1f} s; up to "
                    f"{bounds.requests} of {bounds.pending_s:g} s may wait. Try again in {wait_s} s.",
                    wait_s,
                )
            self._waiting.append(ticket)
            self._changed.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Nobody wants this any more: what waits of it is forgotten, and what runs of it is dropped."""
        with self._changed:
            ticket.over = True
            self._waiting = [one for one in self._waiting if one is not ticket]

    def close(self) -> None:
        """End: what waits fails, and what runs is not waited for, as nobody is left to take its result."""
        with self._changed:
            self._ending = True
            self._fail(self._queued(), Draining("the server shut down before this was computed; ask another one."))
            self._changed.notify()

    def _start(self) -> None:
        threading.Thread(target=self._work, name="compute", daemon=True).start()

    def _work(self) -> None:
        try:
            self._prepare()
            while batch := self._next():
                self._compute(batch)
        except BaseException as error:  # noqa: BLE001 - whatever ends the thread, those who wait are told
            self._died(error)

    def _next(self) -> list[Slice]:
        """The next batch, as soon as there is one; nothing at the end."""
        with self._changed:
            self._requeue()
            while not self._ending:
                self._expire()
                if self._waiting:
                    self._take()
                    return self._running
                self._changed.wait()
            return []

    def _expire(self) -> None:
        now = time.monotonic()
        late = [ticket for ticket in self._waiting if ticket.deadline <= now]
        self._fail(late, DeadlineExceeded("no time was left before the computing began; send fewer rows, or later."))

    def _take(self) -> None:
        self._running = next_batch(self._waiting, self._bounds.batch_s / self._slowness)
        taken = {id(one.ticket) for one in self._running}
        self._waiting = [ticket for ticket in self._waiting if id(ticket) not in taken]
        for one in self._running:
            one.ticket.taken = one.stop

    def _requeue(self) -> None:
        """What is left of a ticket waits behind those that came while its rows ran."""
        self._waiting += self._cut()
        self._running = []

    def _cut(self) -> list[Ticket]:
        """The tickets of which rows run and rows wait."""
        tickets = [one.ticket for one in self._running]
        return [ticket for ticket in tickets if ticket.taken < ticket.rows and not ticket.over]

    def _compute(self, batch: Sequence[Slice]) -> None:
        began, began_ns = time.perf_counter(), time.time_ns()
        results = self._results(batch)
        ended_ns = time.time_ns()
        cost = sum(one.rows * one.ticket.row_cost for one in batch)
        if cost > 0:  # no rows say nothing of what rows cost
            self._learn(time.perf_counter() - began, cost)
        for one, result in zip(batch, results, strict=True):
            self._deliver(one, result, began_ns, ended_ns)

    def _learn(self, seconds: float, cost: float) -> None:
        """Batches count by what they cost: what a small one takes besides its rows says little of a large one."""
        self._spent = _MEMORY * self._spent + seconds
        self._said = _MEMORY * self._said + cost
        self._slowness = min(max(self._spent / max(self._said, _LEAST_S), _FASTEST), _SLOWEST)

    def _results(self, batch: Sequence[Slice]) -> Sequence[Any]:
        try:
            return self._run(batch)
        except Exception as error:  # noqa: BLE001 - it is given to those whose rows they are
            if len(batch) == 1:
                return [error]
        results: list[Any] = []
        for one in batch:
            results += self._results([one])
        return results

    def _deliver(self, one: Slice, result: Any, began_ns: int, ended_ns: int) -> None:
        ticket = one.ticket
        with self._changed:
            if ticket.over:
                return
            if isinstance(result, Exception):
                self._fail([ticket], result)
                return
            ticket.on_part(SliceResult(one.start, one.stop, result, began_ns, ended_ns))
            if one.stop == ticket.rows:
                ticket.over = True
                ticket.on_end(None)

    def _fail(self, tickets: Sequence[Ticket], error: BaseException) -> None:
        for ticket in tickets:
            if not ticket.over:
                ticket.over = True
                ticket.on_end(error)
        self._waiting = [ticket for ticket in self._waiting if not ticket.over]

    def _queued(self) -> list[Ticket]:
        """The tickets that wait or run, each once."""
        found = {id(ticket): ticket for ticket in [*(one.ticket for one in self._running), *self._waiting]}
        return [ticket for ticket in found.values() if not ticket.over]

    def _pending_s(self) -> float:
        running = sum(one.rows * one.ticket.row_cost for one in self._running)
        return (running + sum(ticket.cost for ticket in [*self._cut(), *self._waiting])) * self._slowness

    def _died(self, error: BaseException) -> None:
        _log.critical("the compute thread died: %s: %s", type(error).__name__, error)
        with self._changed:
            self._fail(self._queued(), ComputeDied("the compute thread died while this waited; ask again."))
            self._running = []
            self._dead = self._restarts >= _RESTARTS
            if not self._dead and not self._ending:
                self._restarts += 1
                self._start()
