"""The goals of serving, each measured: what was found, and what is wanted.

The engine alone is measured right before the server, and where processor times are subtracted several times in turn,
of which the median counts: neighbours on the machine slow both down.
"""

import json
import math
import operator
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asking import Asking
from drive import Driven, drive
from served import Server
from serving_who import Engine

_COMPARED = {"≤": operator.le, "≥": operator.ge}
_ROUNDS, _LOAD, _KEPT_UP, _IDLE_S = 3, 0.7, 0.9, 20.0
_BUSY_CLIENTS = 64
# A server takes no less than its engine: what says so was disturbed. A share has a tenth for noise.
_BEYOND, _SHARE = (0.0, math.inf), (0.0, 1.1)
_NO_SIZES = "the server tells no batch sizes"
Row = dict[str, object]


@dataclass(frozen=True)
class Bench:
    """What goals are measured with. seconds: of one measurement."""

    server: Server
    engine: Engine
    seconds: float


def goal(
    text: str,
    case: object,
    found: float | str,
    sign: str,
    wanted: float,
    unit: str,
    note: str = "",
    possible: tuple[float, float] = (-math.inf, math.inf),
) -> Row:
    """A row. found: a number, or why there is none. possible: a number outside says that the measurement went wrong."""
    unknown = isinstance(found, str) or not possible[0] <= found <= possible[1]
    met = "unknown" if unknown else "yes" if _COMPARED[sign](found, wanted) else "no"
    return {
        "goal": text,
        "case": str(case),
        "found": found,
        "wanted": f"{sign} {wanted:g} {unit}",
        "met": met,
        "note": note,
    }


def wire_cost(bench: Bench, asking: Asking, request: Path) -> Row:
    """The processor time of a request beside the engine's: HTTP, reading, batching, writing."""
    text = "CPU beside the engine"
    beside, outside = [], []
    note = ""
    for _ in range(_ROUNDS):
        driven, batch = _batched(bench, asking, request, 1)
        if batch is None:
            return goal(text, asking, _NO_SIZES, "≤", 1, "ms")
        engine_s = bench.engine(asking.net, batch, bench.seconds).cpu_s * asking.rows / batch
        beside.append(1e3 * (driven.server_s_each - engine_s))
        outside.append(1e3 * driven.outside_s_each)
        note = f"batches of {batch} rows; the last time {1e3 * driven.server_s_each:.2f} − {1e3 * engine_s:.2f}"
    note = f"{_spread(beside)}; {note}; all but computing {statistics.median(outside):.2f} ms"
    return goal(text, asking, statistics.median(beside), "≤", 1, "ms", note, _BEYOND)


def saturated(bench: Bench, asking: Asking, request: Path) -> Row:
    """Rows a second with many clients, as a share of the engine's alone in batches of the same size."""
    text = "throughput / engine alone"
    driven, batch = _batched(bench, asking, request, _BUSY_CLIENTS)
    if batch is None:
        return goal(text, asking, _NO_SIZES, "≥", 0.9, "")
    engine_s = bench.engine(asking.net, batch, bench.seconds).wall_s / batch
    loop = f"event loop {1e3 * driven.loop_s_each:.2f} of {1e3 * driven.server_s_each:.2f} ms"
    note = f"{_BUSY_CLIENTS} clients, batches of {batch} rows; {loop}"
    return goal(text, asking, driven.per_s * asking.rows * engine_s, "≥", 0.9, "", note, _SHARE)


def lone(bench: Bench, asking: Asking, request: Path) -> Row:
    """The latency of a request that is alone, beyond the engine's time."""
    beyond = []
    for _ in range(_ROUNDS):
        engine = bench.engine(asking.net, asking.rows, bench.seconds)
        beyond.append(1e3 * (drive(bench.server, request, 1, bench.seconds).quantile_s(0.5) - engine.wall_s))
    found, note = statistics.median(beyond), f"rounds {_spread(beyond)}"
    return goal("lone p50 beyond the engine", asking, found, "≤", 1, "ms", note, _BEYOND)


def steady(bench: Bench, asking: Asking, request: Path, saturation: float, spread: str) -> Row:
    """How much later the slowest answers come than usual ones, below saturation (requests a second)."""
    driven = drive(bench.server, request, 1, 2 * bench.seconds, _LOAD * saturation, spread)
    p50_s = driven.quantile_s(0.5)
    kept_up = driven.per_s >= _KEPT_UP * _LOAD * saturation
    found = driven.quantile_s(0.99) / p50_s if kept_up else "it did not keep up"
    note = f"{spread} arrivals, {_LOAD * saturation:.0f}/s, {driven.requests} answers, p50 {1e3 * p50_s:.1f} ms"
    return goal(f"p99 / p50 at {_LOAD:.0%} load", asking, found, "≤", 3, "", note)


def idle(server: Server) -> Row:
    """The processor that a server takes whom nobody asks."""
    cpu_s = server.cpu_s()
    time.sleep(_IDLE_S)
    return goal(
        "idle CPU", "no requests", 100 * (server.cpu_s() - cpu_s) / _IDLE_S, "≤", 0.5, "%", f"in {_IDLE_S:.0f} s"
    )


def against_peers(cells: Sequence[Row]) -> Iterator[Row]:
    """The most rows a second of mcdrop against the most of each peer: both in JSON, and by the best form."""
    for (server, net, rows), most in _most(cell for cell in cells if cell["server"] != "mcdrop").items():
        own = [cell for cell in cells if (cell["server"], cell["net"], cell["rows"]) == ("mcdrop", net, rows)]
        in_json = max((float(str(cell["rows_s"])) for cell in own if cell["form"] == "json"), default=0.0)
        best = max(own, key=lambda cell: float(str(cell["rows_s"])))
        ratio = float(str(best["rows_s"])) / most if most else float("inf")
        note = f"{best['form']}; JSON both ways: {in_json / most:.1f}" if most else "it gave no good answer"
        yield goal(f"throughput / {server}", f"{net} B = {rows}", ratio, "≥", 10, "", note)


def most_requests(cells: Iterable[Row], asking: Asking) -> float:
    """The most requests a second of mcdrop among the cells of a question."""
    wanted = ("mcdrop", asking.net, asking.rows, asking.form)
    return max(
        float(str(cell["requests_s"]))
        for cell in cells
        if (cell["server"], cell["net"], cell["rows"], cell["form"]) == wanted
    )


def _most(cells: Iterable[Row]) -> dict[tuple[object, object, object], float]:
    found: dict[tuple[object, object, object], float] = {}
    for cell in cells:
        key = cell["server"], cell["net"], cell["rows"]
        found[key] = max(found.get(key, 0.0), float(str(cell["rows_s"])))
    return found


def _batched(bench: Bench, asking: Asking, request: Path, clients: int) -> tuple[Driven, int | None]:
    """A drive, and how many rows its batches had in the mean; None where the server does not tell.

    Large requests are cut, and small ones put together: the engine alone is timed on batches of the same size.
    """
    before = _counts(bench.server, asking.net)
    driven = drive(bench.server, request, clients, bench.seconds)
    after = _counts(bench.server, asking.net)
    if before is None or after is None or after[1] == before[1]:
        return driven, None
    return driven, max(1, round((after[0] - before[0]) / (after[1] - before[1])))


def _counts(server: Server, net: str) -> tuple[int, int] | None:
    """The rows and the batches that were computed so far, where the server tells."""
    try:
        with urllib.request.urlopen(f"{server.url}/v2/models/{net}/stats", timeout=10) as answer:  # noqa: S310 - loopback
            stats = json.load(answer)["model_stats"][0]
    except urllib.error.HTTPError:
        return None
    return int(stats["inference_count"]), int(stats["execution_count"])


def _spread(values: Sequence[float]) -> str:
    return " … ".join(f"{value:.2f}" for value in (min(values), max(values)))
