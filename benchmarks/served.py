"""A server in a process of its own: started, watched in /proc, stopped. Linux only."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_START_S, _STOP_S = 120.0, 20.0


@dataclass(frozen=True)
class Server:
    """A server on loopback, and the processes that it started."""

    process: "subprocess.Popen[bytes]"
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """Processor seconds so far, of all its processes. The kernel counts hundredths."""
        return sum(_cpu_s(Path(f"/proc/{pid}/stat")) for pid in self._pids())

    def threads_s(self) -> dict[str, float]:
        """Processor seconds so far of each thread of the first process."""
        return {task.name: _cpu_s(task / "stat") for task in Path(f"/proc/{self.process.pid}/task").iterdir()}

    def memory_bytes(self) -> int:
        """What its first process holds in memory now, and maps no file for."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))

    def _pids(self) -> list[int]:
        """The process and its descendants."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                children.setdefault(int(_fields(stat)[1]), []).append(int(stat.parent.name))
        found = [self.process.pid]
        for pid in found:
            found += children.get(pid, [])
        return found


@contextmanager
def served(
    command: Sequence[str | Path], port: int, ready: str, log: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    """A server, once it answers 200 on the path `ready`. Raises RuntimeError with the end of its log if it does not."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,  # so that what it leaves behind can be ended too
        )
        server = Server(process, port)
        try:
            _wait(server, ready, log)
            yield server
        finally:
            _stop(server)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: Server, ready: str, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(server.url + ready, timeout=1):  # noqa: S310 - loopback
            return
        time.sleep(0.1)
    raise RuntimeError(f"{log.name}: no server started:\n" + "\n".join(log.read_text().splitlines()[-20:]))


def _stop(server: Server) -> None:
    server.process.terminate()
    try:
        server.process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
    with suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGKILL)


def _fields(stat: Path) -> list[str]:
    """What stands in a stat file behind the name, which may hold anything."""
    return stat.read_text().rpartition(")")[2].split()


def _cpu_s(stat: Path) -> float:
    """In user and in system mode; 0 for what has ended meanwhile."""
    try:
        fields = _fields(stat)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK_S
