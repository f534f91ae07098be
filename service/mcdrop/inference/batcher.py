"""A bounded queue and the compute thread. Work-conserving: a free thread takes what waits, and there is no timer."""

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
# The weight that earlier batches keep, with each new one, in the measured speed.
_MEMORY = 0.8
_SLOWEST, _FASTEST = 100.0, 0.1
_LEAST_S = 1e-9
_RESTARTS = 1

RunBatch = Callable[[Sequence[Slice]], Sequence[Any]]


@dataclass(frozen=True)
class QueueLimits:
    """The limits of the queue.

    Attributes:
        requests: The most requests that may wait.
        pending_s: The most seconds of computing that may wait.
        batch_s: The seconds that one batch should take.
    """

    requests: int
    pending_s: float
    batch_s: float


class Batcher:
    """Computes tickets in batches, on a thread of its own.

    Args:
        run: Returns the result of each slice of a batch, or an exception in its place. If it raises, each slice is
            tried once by itself.
        limits: The limits of the queue.
        prepare: Called first on the compute thread.
    """

    def __init__(self, run: RunBatch, limits: QueueLimits, prepare: Callable[[], None] = lambda: None) -> None:
        self._run, self._limits, self._prepare = run, limits, prepare
        self._waiting: list[Ticket] = []
        self._running: list[Slice] = []
        self._changed = threading.Condition()
        # Decayed sums over the last batches: the seconds they took and the seconds their tickets predicted.
        self._spent_s = self._predicted_s = limits.batch_s
        self._slowness = 1.0
        self._restarts = 0
        self._ending, self._dead = False, False
        self._start()

    @property
    def alive(self) -> bool:
        """Whether there is a compute thread."""
        return not self._dead

    @property
    def pending_requests(self) -> int:
        """The number of tickets that wait or run."""
        with self._changed:
            return len(self._queued())

    @property
    def pending_s(self) -> float:
        """Seconds of computing that wait or run, at the measured speed."""
        with self._changed:
            return self._pending_s()

    def submit(self, ticket: Ticket) -> None:
        """Add a ticket to the queue.

        Args:
            ticket: The ticket.

        Raises:
            QueueFull: The limits of the queue are reached.
            Draining: The server is shutting down.
            ComputeDied: There is no compute thread any more.
        """
        with self._changed:
            if self._ending:
                raise Draining("the server is shutting down. Ask another one, or retry later.")
            if self._dead:
                raise ComputeDied("the compute thread of this server died. Tell the operator to restart it.")
            self._refuse_beyond_limits(ticket)
            self._waiting.append(ticket)
            self._changed.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Remove a ticket: its waiting rows leave the queue, and the result of running rows is dropped.

        Args:
            ticket: A ticket that was submitted.
        """
        with self._changed:
            ticket.over = True
            self._waiting = [one for one in self._waiting if one is not ticket]

    def close(self) -> None:
        """Fail the tickets that wait or run, and end the thread without waiting for the running batch."""
        with self._changed:
            self._ending = True
            self._fail(self._queued(), Draining("the server shut down before this was computed. Ask another one."))
            self._changed.notify()

    def _refuse_beyond_limits(self, ticket: Ticket) -> None:
        limits, pending_s, waiting = self._limits, self._pending_s(), len(self._cut()) + len(self._waiting)
        own_s = ticket.cost * self._slowness
        if waiting >= limits.requests or (waiting and pending_s + own_s > limits.pending_s):
            retry_s = max(1, ceil(pending_s))
            raise QueueFull(
                f"the queue holds {waiting} requests ({pending_s:.1f} s of computing), and this one would add "
                f"{own_s:.1f} s. Limits: {limits.requests} requests, {limits.pending_s:g} s. Retry in {retry_s} s.",
                retry_s,
            )

    def _start(self) -> None:
        threading.Thread(target=self._work, name="compute", daemon=True).start()

    def _work(self) -> None:
        try:
            self._prepare()
            while batch := self._next():
                self._compute(batch)
        except BaseException as error:  # noqa: BLE001 - whatever ends the thread, the waiting requests must fail
            self._died(error)

    def _next(self) -> list[Slice]:
        """Wait for the next batch and return it; return an empty list at the end."""
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
        self._fail(
            late, DeadlineExceeded("the deadline passed while the request was queued. Send fewer rows, or retry later.")
        )

    def _take(self) -> None:
        self._running = next_batch(self._waiting, self._limits.batch_s / self._slowness)
        taken = {id(one.ticket) for one in self._running}
        self._waiting = [ticket for ticket in self._waiting if id(ticket) not in taken]
        for one in self._running:
            one.ticket.taken = one.stop

    def _requeue(self) -> None:
        """Queue the rest of a cut ticket behind the tickets that arrived while its rows ran."""
        self._waiting += self._cut()
        self._running = []

    def _cut(self) -> list[Ticket]:
        """Return the tickets with rows that run and rows that wait."""
        tickets = [one.ticket for one in self._running]
        return [ticket for ticket in tickets if ticket.taken < ticket.rows and not ticket.over]

    def _compute(self, batch: Sequence[Slice]) -> None:
        began, began_ns = time.perf_counter(), time.time_ns()
        results = self._results(batch)
        ended_ns = time.time_ns()
        cost = sum(one.rows * one.ticket.row_cost for one in batch)
        if cost > 0:  # a batch without rows says nothing about the cost of rows
            self._learn(time.perf_counter() - began, cost)
        for one, result in zip(batch, results, strict=True):
            self._deliver(one, result, began_ns, ended_ns)

    def _learn(self, seconds: float, cost: float) -> None:
        """Update the measured speed. Batches count by their cost: the overhead of a small one says little."""
        self._spent_s = _MEMORY * self._spent_s + seconds
        self._predicted_s = _MEMORY * self._predicted_s + cost
        self._slowness = min(max(self._spent_s / max(self._predicted_s, _LEAST_S), _FASTEST), _SLOWEST)

    def _results(self, batch: Sequence[Slice]) -> Sequence[Any]:
        try:
            return self._run(batch)
        except Exception as error:  # noqa: BLE001 - the error goes to the requests whose rows caused it
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
            ticket.on_result(SliceResult(one.start, one.stop, result, began_ns, ended_ns))
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
        """Return the tickets that wait or run, each once."""
        found = {id(ticket): ticket for ticket in [*(one.ticket for one in self._running), *self._waiting]}
        return [ticket for ticket in found.values() if not ticket.over]

    def _pending_s(self) -> float:
        running = sum(one.rows * one.ticket.row_cost for one in self._running)
        return (running + sum(ticket.cost for ticket in [*self._cut(), *self._waiting])) * self._slowness

    def _died(self, error: BaseException) -> None:
        _log.critical("the compute thread died: %s: %s", type(error).__name__, error)
        with self._changed:
            self._fail(self._queued(), ComputeDied("the compute thread died while this request waited. Retry it."))
            self._running = []
            self._dead = self._restarts >= _RESTARTS
            if not self._dead and not self._ending:
                self._restarts += 1
                self._start()
