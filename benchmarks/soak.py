"""Claim: minutes of good, bad, slow, aborted and oversized requests, reloads and failures leave nothing wrong behind.

A server (soak_server.py) is asked by some threads at once, each with one kind of request after another (soak_asks.py).
Meanwhile an operator publishes new versions, some of them broken, unloads and loads a model, floods the queue, makes
the engine fail, and once ends the thread that computes (soak_operator.py). Every 200 must hold the rows that the engine
alone answers for the version that it names, every refusal must have a status that is due, and each must come within
30 s (soak_judge.py). The memory after a fifth of the time, when the operator did everything at least once, and that at
the end must differ by at most 5 %, and the server must end with 0 on SIGTERM.

Run: python benchmarks/soak.py [--minutes 10] [--seed 0]. Exits with 1 where anything was wrong.
"""

import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import torch
import typer
from machine import report
from rich.console import Console
from served import Server, free_port, served
from soak_asks import HUNG_S, KINDS, Asker
from soak_forms import FORMS, Form
from soak_judge import Judge
from soak_operator import Operator, publish_version
from soak_truth import Question, Truth

_THREADS = 6
_MAX_BODY_BYTES = 2 * 2**20
_SAMPLE_S, _WARM, _WINDOW, _GROWTH = 0.25, 0.2, 0.1, 0.05
_console = Console()


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the order of requests.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="mcdrop-soak-") as name:
        folder = Path(name)
        judge = Judge(Truth(folder / "bundles"))
        for model in ("digits", "other"):
            publish_version(folder / "bundles", model)
        with _server(folder) as server:
            memory = _soaked(server, folder, judge, 60 * minutes, seed)
            server.process.terminate()
            code = server.process.wait(HUNG_S)
    wrong = [f"{kind}: {text}" for kind, text in judge.wrong] + _grown(memory)
    wrong += [f"the server ended with {code}"] if code else []
    report(f"soak of {minutes:g} minutes", judge.rows(), json)
    _console.print(f"memory, MiB: {', '.join(f'{each / 2**20:.1f}' for each in memory)}; the server ended with {code}")
    for text in wrong[:20]:
        _console.print(text, markup=False)
    _console.print(f"{len(wrong)} violations")
    sys.exit(bool(wrong))


def _server(folder: Path) -> AbstractContextManager[Server]:
    port = free_port()
    environment = {
        "MCDROP_BUNDLES": str(folder / "bundles"),
        "MCDROP_CACHE": str(folder / "cache"),
        "MCDROP_PORT": str(port),
        "MCDROP_MAX_BODY_BYTES": str(_MAX_BODY_BYTES),
        "MCDROP_MAX_QUEUE": "16",
        "MCDROP_BATCH_MS": "20",
    }
    command = [sys.executable, Path(__file__).with_name("soak_server.py"), folder]
    return served(command, port, "/healthz/ready", folder / "log", environment)


def _soaked(server: Server, folder: Path, judge: Judge, seconds: float, seed: int) -> list[float]:
    """Ask for so long. Returns the memory, in bytes; see `_memory`."""
    forms, ended = _readable(server.port), threading.Event()
    askers = [
        Asker(server.port, forms, random.Random(f"{seed} {number}"), _MAX_BODY_BYTES + 1)  # noqa: S311 - no secret
        for number in range(_THREADS + 1)
    ]
    operator = Operator(folder, askers.pop(), judge)
    threads = [threading.Thread(target=_ask, args=(asker, judge, ended)) for asker in askers]
    threads.append(threading.Thread(target=operator.work, args=(ended,)))
    for thread in threads:
        thread.start()
    memory = _memory(server, seconds, operator.once_through)
    ended.set()
    for thread in threads:
        thread.join()
    return memory


def _readable(port: int) -> Mapping[str, Form]:
    """The forms that the server reads; of the others it is said that they are left out."""
    found: dict[str, Form] = {}
    asker = Asker(port, FORMS, random.Random(0), 0)  # noqa: S311 - no secret
    for name, form in FORMS.items():
        asked = asker.asked(Question("digits", 0, 1, 8, 0), form)
        if asked.status == 200:
            found[name] = form
        else:
            _console.print(f"{name} is left out: {asked.status} {asked.body[:120]!r}", markup=False)
    return found


def _ask(asker: Asker, judge: Judge, ended: threading.Event) -> None:
    """One request after another, until the end."""
    kinds, weights = list(KINDS), list(KINDS.values())
    while not ended.is_set():
        kind = asker.random.choices(kinds, weights)[0]
        judge.judge(kind.__name__, lambda kind=kind: kind(asker))


def _memory(server: Server, seconds: float, warm: threading.Event) -> list[float]:
    """Medians over a tenth of the time each: from when it is warm to the end. Waits for the end."""
    start = time.monotonic()
    samples: list[int] = []
    while (spent := time.monotonic() - start) < seconds:
        if warm.is_set() and spent >= _WARM * seconds:
            samples.append(server.memory_bytes())
        time.sleep(_SAMPLE_S)
    each = max(1, int(_WINDOW * seconds / _SAMPLE_S))
    return [statistics.median(samples[at : at + each]) for at in range(0, len(samples) - each + 1, each)]


def _grown(memory: list[float]) -> list[str]:
    if len(memory) < 2:
        return ["the time was too short to see the memory grow"]
    growth = memory[-1] / memory[0] - 1
    return [f"the memory changed by {growth:+.1%}"] if abs(growth) > _GROWTH else []


if __name__ == "__main__":
    typer.run(main)
