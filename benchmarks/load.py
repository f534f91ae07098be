"""Requests to one address on this machine, from a process of their own: one JSON object in, one out.

In: port, file (the bytes of one whole HTTP request), clients (connections, each with one request at a time), seconds,
rate (arrivals a second; null: each client asks again as soon as it has its answer), spread ("random" or "even").
Out: latencies_s of the good answers, refused (how many of each other outcome), seconds, cpu_s of this process.

With a rate the clock of a request starts when it arrives, even where all clients are busy: a slow server does not slow
down those who ask. Imports no more than it needs, and reads of an answer its status and its length, so that it takes
little of the processor that the server has.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

_HOST = "127.0.0.1"
# How long an answer may take: then it counts as "hung".
_PATIENCE_S = 60.0


class Connection(asyncio.Protocol):
    """A connection that is kept. Of an answer it finds the status, by a Content-Length its end."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[str] | None = None
        self._head, self._status, self._left = b"", "", 0

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP is
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._finish("closed")

    def data_received(self, data: bytes) -> None:
        if self._status:
            self._left -= len(data)
        else:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._status, self._left = _read_head(head)
            self._left -= len(body)
        if self._left <= 0:
            self._finish(self._status)

    async def ask(self, request: bytes) -> str:
        """The status of the answer, or "closed" or "hung"."""
        if self._transport is None or not self.open:
            return "closed"
        self._head, self._status = b"", ""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._answer, _PATIENCE_S)
        except TimeoutError:
            self._transport.abort()
            return "hung"

    def _finish(self, outcome: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(outcome)


class Load:
    """The clients, and what became of their requests."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self.latencies_s: list[float] = []
        self.refused: Counter[str] = Counter()
        self.ended = 0.0

    async def closed(self, clients: int, seconds: float) -> None:
        """Each client asks again as soon as it has its answer."""
        until = time.perf_counter() + seconds

        async def arrivals() -> AsyncIterator[float]:
            while (now := time.perf_counter()) < until:
                yield now

        await asyncio.gather(*(self._client(arrivals()) for _ in range(clients)))

    async def opened(self, clients: int, seconds: float, rate: float, spread: str) -> None:
        """Requests arrive whether the server answers or not."""
        waiting: asyncio.Queue[float | None] = asyncio.Queue()

        async def arrivals() -> AsyncIterator[float]:
            while (arrived := await waiting.get()) is not None:
                yield arrived

        asking = [asyncio.create_task(self._client(arrivals())) for _ in range(clients)]
        start, at, gaps = time.perf_counter(), 0.0, random.Random(0)  # noqa: S311 - not a secret
        while (at := at + (gaps.expovariate(rate) if spread == "random" else 1 / rate)) < seconds:
            await asyncio.sleep(start + at - time.perf_counter())
            waiting.put_nowait(time.perf_counter())
        for _ in asking:
            waiting.put_nowait(None)
        await asyncio.gather(*asking)

    async def _client(self, arrivals: AsyncIterator[float]) -> None:
        connection: Connection | None = None
        async for arrived in arrivals:
            if connection is None or not connection.open:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, _HOST, self._port)
            outcome = await connection.ask(self._request)
            self.ended = time.perf_counter()
            if outcome == "200":
                self.latencies_s.append(self.ended - arrived)
            else:
                self.refused[outcome] += 1


def _read_head(head: bytes) -> tuple[str, int]:
    """The status of an answer, and the bytes of its body."""
    first, *lines = head.split(b"\r\n")
    fields = dict(line.lower().split(b":", 1) for line in lines)
    return first.split()[1].decode(), int(fields[b"content-length"])


def main() -> None:
    asked = json.load(sys.stdin)
    load = Load(asked["port"], Path(asked["file"]).read_bytes())
    start, cpu_s = time.perf_counter(), time.process_time()
    if asked["rate"] is None:
        asyncio.run(load.closed(asked["clients"], asked["seconds"]))
    else:
        asyncio.run(load.opened(asked["clients"], asked["seconds"], asked["rate"], asked["spread"]))
    found = {
        "latencies_s": load.latencies_s,
        "refused": load.refused,
        "seconds": load.ended - start,
        "cpu_s": time.process_time() - cpu_s,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
