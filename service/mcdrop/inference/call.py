"""One request about a model, from its arrival to its answer: read, wait, compute, write, and tell what became of it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import anyio.to_thread
from fastapi import Request

from mcdrop.errors import ClientGone, DeadlineExceeded, InvalidRequest
from mcdrop.http.body import read_body
from mcdrop.http.problems import outcome_of
from mcdrop.inference.batch import Result, Work, batch_key, concatenate
from mcdrop.inference.catalogue import LoadedModel
from mcdrop.inference.query import EmbeddingQuery, Query
from mcdrop.inference.scheduler import SliceResult, Ticket
from mcdrop.inference.state import ServerState
from mcdrop.observability.events import CallFinished, Outcome, Phase
from mcdrop.observability.middleware import attach_call
from mcdrop.wire.npy import Array

T = TypeVar("T")
TIMEOUT_HEADER = "x-request-timeout-ms"
# Work on so few bytes, or numbers, is done on the event loop: handing it to a thread would cost more.
SMALL_BODY_BYTES = 64 * 2**10
_SMALL_ANSWER_NUMBERS = 2048


class Call:
    """A request about a model. Use as an async context manager: its end is told to those who watch."""

    def __init__(self, shared: ServerState, request: Request, verb: str, model: LoadedModel, deadline: float) -> None:
        self.shared, self.request, self.model = shared, request, model
        self._verb, self._deadline = verb, deadline
        self._phases: list[Phase] = []
        self._watched: Mapping[str, Array] = {}
        self._size: tuple[int, int] | None = None
        self._held = ExitStack()
        self._kept_open = False

    @staticmethod
    async def of(shared: ServerState, request: Request, name: str, version: int | None, verb: str) -> "Call":
        """A call about a model, which is loaded when it is not yet. Raises UnknownModel, InvalidBundle, Unloaded."""
        deadline = time.monotonic() + _timeout_s(request, shared.settings.max_timeout_ms)
        return Call(shared, request, verb, await shared.model(name, version), deadline)

    async def __aenter__(self) -> Self:
        self._held.enter_context(self.shared.catalogue.holding(self.model))
        return self

    async def __aexit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if error is not None or not self._kept_open:
            self.end(error)

    def keep_open(self) -> None:
        """The answer is not written yet when the block ends: `end` will be called."""
        self._kept_open = True

    def end(self, error: BaseException | None) -> None:
        """Tell what became of it."""
        self._held.close()
        outcome: Outcome = "success" if error is None else _outcome(error)
        rows, passes = self._size or (0, 0)
        event = CallFinished(
            model=self.model.name,
            version=self.model.version,
            verb=self._verb,
            outcome=outcome,
            rows=rows,
            passes=passes,
            phases=tuple(self._phases),
            measures=self._watched if error is None else {},
        )
        attach_call(event)
        self.shared.call_finished(event)

    def within(self, seconds: float) -> None:
        """Let the deadline be no later than so many seconds from now."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def about(self, rows: int, passes: int) -> None:
        """How large a question is that takes several queries; otherwise it is as large as its query."""
        self._size = rows, passes

    async def decode(self, read: Callable[[bytes], T], weigh: Callable[[bytes], int] = len) -> T:
        """What is read from the body. weigh: the bytes of JSON that reading it takes as long as.

        Raises as `body_of`, and what `read` raises.
        """
        began = time.time_ns()
        try:
            body = await read_body(self.request, self.shared.settings.max_body_bytes, self._deadline - time.monotonic())
            return read(body) if weigh(body) <= SMALL_BODY_BYTES else await anyio.to_thread.run_sync(read, body)
        finally:
            self._phases.append(Phase("decode", began, time.time_ns()))

    async def compute(self, query: Query | EmbeddingQuery) -> Mapping[str, Array]:
        """The measures of all rows, by name. Raises as `parts`."""
        return concatenate([part.result async for part in self.parts(query)]).measures

    async def parts(self, query: Query | EmbeddingQuery, *, watched: bool = True) -> AsyncGenerator[SliceResult, None]:
        """The answer in parts, rows in order: several where there are too many rows for one batch.

        watched: whether its measures may be told of the request; those of the first query that has any are.

        Raises QueueFull, Draining, ComputeDied, DeadlineExceeded, ClientGone, NonFiniteOutput, or what a run raises.
        """
        self._size = self._size or (query.num_rows, query.passes)
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[SliceResult | BaseException | None]()
        tell = inbox.put_nowait

        def later(item: SliceResult | BaseException | None) -> None:
            loop.call_soon_threadsafe(tell, item)

        work = Work(self.model, query)
        row_cost = self.model.cost.of_row(query.passes)
        ticket = Ticket(work, batch_key(work), query.num_rows, row_cost, self._deadline, later, later)
        queued_ns = time.time_ns()
        self.shared.batcher.submit(ticket)
        late = loop.call_later(max(0.0, self._deadline - time.monotonic()), tell, _late())
        gone = asyncio.create_task(_tell_gone(self.request, tell))
        found: list[SliceResult] = []
        try:
            while isinstance(item := await inbox.get(), SliceResult):
                found.append(item)
                yield item
            if item is not None:
                raise item
        finally:
            late.cancel()
            gone.cancel()
            self.shared.batcher.cancel(ticket)
            self._computed(queued_ns, found)
            if watched and found and not self._watched:
                self._watched = concatenate([part.result for part in found]).watched

    async def choose(self, work: Callable[..., T], *args: Any) -> T:
        """The result of some work on a choice, off the event loop. Raises what it raises, DeadlineExceeded, ClientGone.

        What has begun goes on in its thread when nobody waits for it any more.
        """
        chosen = asyncio.ensure_future(self.shared.choosing(work, *args))
        gone = asyncio.create_task(_gone(self.request))
        try:
            left_s = max(0.0, self._deadline - time.monotonic())
            await asyncio.wait({chosen, gone}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if chosen.done():
                return chosen.result()
            raise gone.result() if gone.done() else _late()
        finally:
            chosen.cancel()
            gone.cancel()

    async def encode(self, numbers: int, write: Callable[[], T]) -> T:
        """An answer of so many numbers, as it is written."""
        began = time.time_ns()
        content = write() if numbers <= _SMALL_ANSWER_NUMBERS else await anyio.to_thread.run_sync(write)
        self._phases.append(Phase("encode", began, time.time_ns()))
        return content

    def _computed(self, queued_ns: int, parts: list[SliceResult]) -> None:
        """Note when it waited and ran. What parts share with others of their batch counts in full."""
        if not parts:
            self._phases.append(Phase("queue", queued_ns, time.time_ns()))
            return
        results: list[Result] = [part.result for part in parts]
        prefix_ns = int(1e9 * sum(result.prefix_s for result in results))
        spent_ns = sum(part.ended_ns - part.began_ns for part in parts)
        began, ended = parts[0].began_ns, parts[-1].ended_ns
        middle = began + min(prefix_ns, spent_ns)
        self._phases += [
            Phase("queue", queued_ns, began),
            Phase("prefix", began, middle),
            Phase("suffix", middle, ended),
        ]


async def _tell_gone(request: Request, tell: Callable[[BaseException], None]) -> None:
    """Tell when the caller has left."""
    tell(await _gone(request))


async def _gone(request: Request) -> ClientGone:
    """Once the caller has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return ClientGone("the caller left before the answer.")


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the time for this request is over; send fewer rows, ask for fewer passes, or allow more time."
    )


def _outcome(error: BaseException) -> Outcome:
    cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
    return "cancelled" if cancelled else outcome_of(error)


def _timeout_s(request: Request, max_ms: int) -> float:
    """The seconds a caller allows, and the server at most. Raises InvalidRequest."""
    sent = request.headers.get(TIMEOUT_HEADER)
    if sent is None:
        return max_ms / 1000
    if not (sent.isascii() and sent.isdecimal() and int(sent[:19]) > 0):
        raise InvalidRequest(f"X-Request-Timeout-Ms is {sent[:20]!r}; send milliseconds as a whole number above 0.")
    return min(int(sent[:19]), max_ms) / 1000
