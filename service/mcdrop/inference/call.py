"""A call: one request about a model, from its arrival to its response."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeVar

from fastapi import Request

from mcdrop.errors import ClientGone, DeadlineExceeded, InvalidRequest
from mcdrop.http.body import read_body
from mcdrop.http.problems import outcome_of
from mcdrop.inference.batch import batch_key
from mcdrop.inference.catalogue import LoadedModel
from mcdrop.inference.query import EmbeddingQuery, Query
from mcdrop.inference.result import Result
from mcdrop.inference.scheduler import SliceResult, Ticket
from mcdrop.inference.state import ServerState
from mcdrop.observability.events import CallFinished, Outcome, Phase, PhaseName
from mcdrop.observability.middleware import attach_call
from mcdrop.wire.npy import Array

_T = TypeVar("_T")
TIMEOUT_HEADER = "x-request-timeout-ms"


class Call:
    """A request about a model. An async context manager: at its end the observers are told.

    Args:
        state: The parts of the server.
        request: The request.
        verb: What the request does, as metrics name it.
        model: The model.
        deadline: When the response becomes useless, as `time.monotonic` counts.
    """

    def __init__(self, state: ServerState, request: Request, verb: str, model: LoadedModel, deadline: float) -> None:
        self.state, self.request, self.model = state, request, model
        self._verb, self._deadline = verb, deadline
        self._phases: list[Phase] = []
        self._monitored: Mapping[str, Array] = {}
        self._size: tuple[int, int] | None = None
        self._held = ExitStack()
        self._kept_open = False

    @staticmethod
    async def of(state: ServerState, request: Request, name: str, version: int | None, verb: str) -> "Call":
        """Return a call, and load its model if it is not in memory.

        Args:
            state: The parts of the server.
            request: The request.
            name: The name of the model.
            version: The version; None for the current one.
            verb: What the request does, as metrics name it.

        Returns:
            A call.

        Raises:
            UnknownModel: There is no such model.
            Unloaded: An operator took the model out of service.
            InvalidBundle: The bundle is refused.
            InvalidRequest: The timeout in the headers is not a number.
        """
        deadline = time.monotonic() + _timeout_s(request, state.settings.max_timeout_ms)
        return Call(state, request, verb, await state.model(name, version), deadline)

    async def __aenter__(self) -> Self:
        self._held.enter_context(self.state.catalogue.holding(self.model))
        return self

    async def __aexit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if error is not None or not self._kept_open:
            self.end(error)

    def keep_open(self) -> None:
        """Keep the call open when the block ends, because `end` will be called once the response is sent."""
        self._kept_open = True

    def end(self, error: BaseException | None) -> None:
        """End the call and tell the observers.

        Args:
            error: What it failed with; None for a success.
        """
        self._held.close()
        rows, passes = self._size or (0, 0)
        event = CallFinished(
            model=self.model.name,
            version=self.model.version,
            verb=self._verb,
            outcome="success" if error is None else _outcome(error),
            rows=rows,
            passes=passes,
            phases=tuple(self._phases),
            measures=self._monitored if error is None else {},
        )
        attach_call(event)
        self.state.call_finished(event)

    def limit_time(self, seconds: float) -> None:
        """Move the deadline forward if it is later than some seconds from now.

        Args:
            seconds: Seconds from now.
        """
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def set_size(self, rows: int, passes: int) -> None:
        """Set the size that is reported for a call of several queries. By default it is that of its first query.

        Args:
            rows: The number of rows.
            passes: The number of passes.
        """
        self._size = rows, passes

    @contextmanager
    def phase(self, name: PhaseName) -> Iterator[None]:
        """Record how long a phase of the call takes.

        Args:
            name: The name of the phase.
        """
        began = time.time_ns()
        try:
            yield
        finally:
            self._phases.append(Phase(name, began, time.time_ns()))

    async def body(self) -> bytes:
        """Return the body of the request, decompressed. Raises as `read_body`."""
        return await read_body(self.request, self.state.settings.max_body_bytes, self._deadline - time.monotonic())

    async def compute(self, query: Query | EmbeddingQuery) -> Result:
        """Return the result of a query.

        Args:
            query: The query.

        Returns:
            The result of a query.

        Raises:
            QueueFull: The queue is full.
            Draining: The server is shutting down.
            ComputeDied: The compute thread died.
            DeadlineExceeded: The deadline has passed.
            ClientGone: The client left.
            NonFiniteOutput: The network returned NaN or infinity.
        """
        return Result.join([part.result async for part in self.stream(query)])

    async def stream(
        self, query: Query | EmbeddingQuery, *, monitored: bool = True
    ) -> AsyncGenerator[SliceResult, None]:
        """Yield the result of a query in slices, in the order of the rows. A query too large for a batch has several.

        Args:
            query: The query.
            monitored: Whether its measures may be recorded for the call. Those of the first such query are.

        Yields:
            The result of each slice.

        Raises:
            McdropError: As `compute` does, or what the computation raises.
        """
        self._size = self._size or (query.num_rows, query.passes)
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[SliceResult | BaseException | None]()

        def put(item: SliceResult | BaseException | None) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, item)

        row_cost = self.model.cost.of_row(query.passes)
        ticket = Ticket(query, batch_key(query), query.num_rows, row_cost, self._deadline, put, put)
        queued_ns = time.time_ns()
        self.state.batcher.submit(ticket)
        late = loop.call_later(max(0.0, self._deadline - time.monotonic()), inbox.put_nowait, _deadline_exceeded())
        gone = asyncio.create_task(_put_gone(self.request, inbox.put_nowait))
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
            self.state.batcher.cancel(ticket)
            self._record(queued_ns, found)
            if monitored and found and not self._monitored:
                self._monitored = Result.join([part.result for part in found]).monitored

    async def choose(self, work: Callable[..., _T], *args: Any) -> _T:
        """Return the result of a step of a choice, which runs off the event loop.

        A step that has begun goes on in its thread even if the call ends before.

        Args:
            work: A function.
            *args: Its arguments.

        Returns:
            The result of a step of a choice, which runs off the event loop.

        Raises:
            DeadlineExceeded: The deadline has passed.
            ClientGone: The client left.
        """
        chosen = asyncio.ensure_future(self.state.on_chooser(work, *args))
        gone = asyncio.create_task(_gone(self.request))
        try:
            left_s = max(0.0, self._deadline - time.monotonic())
            await asyncio.wait({chosen, gone}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if chosen.done():
                return chosen.result()
            raise gone.result() if gone.done() else _deadline_exceeded()
        finally:
            chosen.cancel()
            gone.cancel()

    def _record(self, queued_ns: int, parts: list[SliceResult]) -> None:
        """Record when a query waited and ran. Time that slices share with others of their batch counts in full."""
        if not parts:
            self._phases.append(Phase("queue", queued_ns, time.time_ns()))
            return
        prefix_ns = int(1e9 * sum(part.result.prefix_s for part in parts))
        spent_ns = sum(part.ended_ns - part.began_ns for part in parts)
        began, ended = parts[0].began_ns, parts[-1].ended_ns
        middle = began + min(prefix_ns, spent_ns)
        self._phases += [
            Phase("queue", queued_ns, began),
            Phase("prefix", began, middle),
            Phase("suffix", middle, ended),
        ]


async def _put_gone(request: Request, put: Callable[[BaseException], None]) -> None:
    put(await _gone(request))


async def _gone(request: Request) -> ClientGone:
    """Wait until the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return ClientGone("the client left before the response.")


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the deadline of this request has passed. Send fewer rows, request fewer passes, or allow more time."
    )


def _outcome(error: BaseException) -> Outcome:
    cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
    return "cancelled" if cancelled else outcome_of(error)


def _timeout_s(request: Request, max_ms: int) -> float:
    """Return the timeout that the client sends, at most the server's. Raises InvalidRequest."""
    sent = request.headers.get(TIMEOUT_HEADER)
    if sent is None:
        return max_ms / 1000
    if not (sent.isascii() and sent.isdecimal() and int(sent[:19]) > 0):
        raise InvalidRequest(f"X-Request-Timeout-Ms is {sent[:20]!r}; send milliseconds as a whole number above 0.")
    return min(int(sent[:19]), max_ms) / 1000
