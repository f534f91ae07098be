"""Load on a server, and what it cost both sides."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from served import Server

_LOAD = Path(__file__).with_name("load.py")
# How many connections wait for requests that come at a rate: more than can be open at once on a server that keeps up.
_OPEN_CLIENTS = 256


@dataclass(frozen=True)
class Driven:
    """What became of the requests. server_s, loop_s, compute_s and load_s are processor seconds: of the server's
    processes, of the first one's first thread, which runs the event loop, of the busiest of its others, which computes,
    and of the clients.
    """

    latencies_s: list[float]
    refused: dict[str, int]
    seconds: float
    server_s: float
    loop_s: float
    compute_s: float
    load_s: float

    @property
    def requests(self) -> int:
        """Good answers."""
        return len(self.latencies_s)

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return self.requests / self.seconds if self.requests else 0.0

    @property
    def server_s_each(self) -> float:
        """Processor seconds of the server for a good answer."""
        return self.server_s / max(self.requests, 1)

    @property
    def outside_s_each(self) -> float:
        """Those that all but the computing took."""
        return (self.server_s - self.compute_s) / max(self.requests, 1)

    @property
    def loop_s_each(self) -> float:
        """Those of the event loop."""
        return self.loop_s / max(self.requests, 1)

    def quantile_s(self, level: float) -> float:
        """A quantile of the latencies, the nearest rank; NaN of none."""
        if not self.latencies_s:
            return math.nan
        return sorted(self.latencies_s)[math.ceil(level * self.requests) - 1]


def drive(
    server: Server, request: Path, clients: int, seconds: float, rate: float | None = None, spread: str = "random"
) -> Driven:
    """Ask for some seconds: each client again and again, or all of them at a rate, evenly or at random."""
    asked = {
        "port": server.port,
        "file": str(request),
        "clients": clients if rate is None else _OPEN_CLIENTS,
        "seconds": seconds,
        "rate": rate,
        "spread": spread,
    }
    threads, cpu_s = server.threads_s(), server.cpu_s()
    ended = subprocess.run(
        [sys.executable, _LOAD], input=json.dumps(asked).encode(), stdout=subprocess.PIPE, check=True
    )
    server_s = server.cpu_s() - cpu_s
    spent = {name: now - threads.get(name, 0.0) for name, now in server.threads_s().items()}
    loop_s = spent.pop(str(server.process.pid))
    compute_s = max(spent.values(), default=0.0)
    found: dict[str, Any] = json.loads(ended.stdout)
    return Driven(found["latencies_s"], found["refused"], found["seconds"], server_s, loop_s, compute_s, found["cpu_s"])
