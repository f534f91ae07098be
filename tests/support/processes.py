"""The installed command in processes of its own."""

import os
import re
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

MCDROP = Path(sysconfig.get_path("scripts")) / "mcdrop"
# No test depends on how long something takes: this only ends a test that would otherwise never end.
PATIENCE_S = 120


def environment(**variables: str) -> dict[str, str]:
    """The developer's, without mcdrop's own variables; on the CPU, unmeasured, so that answers can be compared."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCDROP_")}
    return {**kept, "MCDROP_DEVICE": "cpu", "MCDROP_TUNE": "false", "COLUMNS": "250", "NO_COLOR": "1", **variables}


def mcdrop(*args: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [MCDROP, *map(str, args)],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Process:
    """A running server, and the lines it has printed."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str]

    def wait_ready(self) -> "Process":
        """Once /healthz/ready says so."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.lines
            try:
                if httpx.get(f"{self.url}/healthz/ready").is_success:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.lines)

    def line(self, pattern: str) -> str:
        """The first line it prints that a pattern matches."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for line in list(self.lines):
                if re.search(pattern, line):
                    return line
            time.sleep(0.02)
        raise AssertionError(self.lines)

    def terminate(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextmanager
def serving(bundles: Path, *args: object, **variables: str) -> Iterator[Process]:
    """`mcdrop serve` on a free port; ended in any case."""
    port = free_port()
    process = subprocess.Popen(
        [MCDROP, "serve", "--bundles", bundles, "--port", str(port), *map(str, args)],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)
    reader.start()
    try:
        yield Process(f"http://127.0.0.1:{port}", process, lines)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
