"""Which of the waiting tickets are computed next: decisions without a clock, a lock or a thread."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SliceResult:
    """The result of some rows of a ticket.

    Attributes:
        start: The first row.
        stop: The row after the last one.
        result: What `run` of the batcher returned for these rows.
        began_ns: When their batch began, as `time.time_ns` counts.
        ended_ns: When their batch ended.
    """

    start: int
    stop: int
    result: Any
    began_ns: int
    ended_ns: int


@dataclass(eq=False)
class Ticket:
    """A query in the queue.

    Both callbacks run on the compute thread.

    Attributes:
        query: The query. The queue does not look into it.
        key: Tickets with equal keys may share a batch.
        rows: The number of rows of the query.
        row_cost: Seconds that one row takes.
        deadline: When the result becomes useless, as `time.monotonic` counts.
        on_result: Receives the result of each slice, in the order of the rows.
        on_end: Called once, after the last result with None, or with the error.
        taken: How many rows have been taken into batches.
        over: Whether `on_end` was called or the ticket was cancelled.
    """

    query: Any
    key: Hashable
    rows: int
    row_cost: float
    deadline: float
    on_result: Callable[[SliceResult], None]
    on_end: Callable[[BaseException | None], None]
    taken: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)

    @property
    def cost(self) -> float:
        """Seconds that the waiting rows will take."""
        return (self.rows - self.taken) * self.row_cost


@dataclass(frozen=True)
class Slice:
    """The rows `start … stop − 1` of a ticket, which are in one batch.

    Attributes:
        ticket: The ticket.
        start: The first row.
        stop: The row after the last one.
    """

    ticket: Ticket
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start


def next_batch(waiting: Sequence[Ticket], budget: float) -> list[Slice]:
    """Return the slices of the next batch: the first ticket, and whole tickets of the same key that still fit.

    Only the first ticket is ever cut, at the budget but not below one row. A small query is never in two batches.

    Args:
        waiting: At least one ticket, the longest wait first.
        budget: Seconds that the batch may take.

    Returns:
        The slices of the next batch: the first ticket.
    """
    first, *others = waiting
    batch = [_head(first, budget)]
    left = budget - batch[0].rows * first.row_cost
    for ticket in others:
        if ticket.key == first.key and ticket.cost <= left:
            batch.append(Slice(ticket, ticket.taken, ticket.rows))
            left -= ticket.cost
    return batch


def _head(ticket: Ticket, budget: float) -> Slice:
    rows = ticket.rows - ticket.taken
    if ticket.cost > budget:
        rows = max(1, min(rows, int(budget / ticket.row_cost)))
    return Slice(ticket, ticket.taken, ticket.taken + rows)
