"""A real `mcdrop serve` in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

MCDROP = Path(sys.executable).parent / "mcdrop"
_PATIENCE_S = 60.0


@contextmanager
def serving(bundles: Path, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve a folder on a free port until the end of the block: the address, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
    command = [MCDROP, "serve", "--bundles", bundles, "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=bundles
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        yield url, process
    finally:
        process.terminate()
        process.communicate(timeout=15)


def wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    """Return once the server's bundles are loaded, however few."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        try:
            if "being loaded" not in httpx.get(f"{url}/healthz/ready").text:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"{url} is not ready after {_PATIENCE_S} s")
