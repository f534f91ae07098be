"""Which of the waiting tickets go next. No clock, no lock, no thread: decisions only."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SliceResult:
    """An answer to some rows of a ticket: their results, when their batch began and ended, time.time_ns."""

    start: int
    stop: int
    result: Any
    began_ns: int
    ended_ns: int


@dataclass(eq=False)
class Ticket:
    """Rows that wait to be computed.

    work: what `run` is given, with the rows that are its turn. key: tickets of equal keys may share a batch. row_cost:
    the seconds that a row takes. deadline: on time.monotonic, when nobody wants an answer any more. on_part: called
    with each part, rows in order. on_end: called once, after the last part with None, or with what went wrong. Both on
    the compute thread. taken: how many rows have had their turn. over: no more is to be told.
    """

    work: Any
    key: Hashable
    rows: int
    row_cost: float
    deadline: float
    on_part: Callable[[SliceResult], None]
    on_end: Callable[[BaseException | None], None]
    taken: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)

    @property
    def cost(self) -> float:
        """The seconds that the rows which wait will take."""
        return (self.rows - self.taken) * self.row_cost


@dataclass(frozen=True)
class Slice:
    """Rows start … stop − 1 of a ticket."""

    ticket: Ticket
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start


def next_batch(waiting: Sequence[Ticket], budget: float) -> list[Slice]:
    """The next batch: of the first ticket as many rows as cost the budget, one at least, and whole ones of its key.

    waiting: the longest wait first; at least one. Only the first is ever cut: a small query is never in two batches.
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
