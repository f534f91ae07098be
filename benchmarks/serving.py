"""Claim: the server costs little beside the engine, holds up under load, and is ten times what people write today.

`mcdrop serve` as it is installed runs in one process, one thread for an operator, its choices measured; the load comes
from another, over loopback (load.py). Of each cell: rows and requests a second, quantiles of the latency, processor
time of the server for a request and of its event loop, and how much of a processor the load took. Peers make T = 32
calls of the same network, one thread for an operator too: FastAPI (in this environment), LitServe and MLServer (each in
its own, see serving_peers/*.txt). Then the goals of serving_goals.py, for which the engine is measured alone as well.

--peers names a folder that holds the environments `litserve` and `mlserver`; those that are missing are left out, and
named. A form that the server does not read is left out, with what it answered.

Run: python benchmarks/serving.py [--quick] [--seconds 3] [--nets mlp] [--peers DIR] [--json FILE]
"""

import json as json_of
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from asking import Asking, input_name, refusal, written
from drive import Driven, drive
from machine import description, report
from rich.console import Console
from served import Server
from serving_goals import Bench, Row, against_peers, idle, lone, most_requests, saturated, steady, wire_cost
from serving_nets import NETS
from serving_who import alone, ours, peer, peers_in, published
from wire import Form, oip_binary, v1_json, v1_npy

ROWS, MANY = (1, 256), 256
_FORMS: dict[str, Form] = {"json": v1_json, "npy": v1_npy, "oip": oip_binary}
_CLIENTS, _FEW_CLIENTS, _PEER_CLIENTS = (1, 4, 16, 64), (1, 16), (1, 16)
_QUICK_S, _WARM_S = 0.7, 0.3
_console = Console()


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    nets: tuple[str, ...]
    clients: tuple[int, ...]
    seconds: float


def main(
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    nets: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NETS)}; all.")] = None,
    seconds: Annotated[float, typer.Option(help="For one cell.")] = 3.0,
    peers: Annotated[Path | None, typer.Option(help="Folder of the peers' environments.")] = None,
    quick: Annotated[bool, typer.Option(help="1 and 16 clients, less than a second a cell.")] = False,
) -> None:
    torch.set_num_threads(1)
    chosen = tuple(nets or NETS)
    extent = Extent(chosen, _FEW_CLIENTS, _QUICK_S) if quick else Extent(chosen, _CLIENTS, seconds)
    with tempfile.TemporaryDirectory(prefix="mcdrop-serving-") as name:
        cells, goals = _ours(Path(name), extent)
        cells += _peers(Path(name), extent, peers)
    goals += against_peers(cells)
    report("served over loopback, T = 32, 1 thread", [_short(cell) for cell in cells], None)
    report("goals", goals, None)
    if json is not None:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        found = {"command": command, "machine": description(), "cells": cells, "goals": goals}
        json.write_text(json_of.dumps(found, indent=1) + "\n")


def _ours(folder: Path, extent: Extent) -> tuple[list[Row], list[Row]]:
    """The cells of mcdrop's server, and its goals."""
    published(extent.nets, folder)
    cells: list[Row] = []
    goals: list[Row] = []
    with ours(folder) as server:
        goals.append(idle(server))
        with alone(folder) as engine:
            bench = Bench(server, engine, extent.seconds)
            for asking, request in _readable(server, extent.nets, folder):
                cells += _cells("mcdrop", server, asking, request, extent.clients, extent.seconds)
                goals += _goals(bench, asking, request, cells)
    return cells, goals


def _readable(server: Server, nets: tuple[str, ...], folder: Path) -> Iterator[tuple[Asking, Path]]:
    """Every question in each form that the server reads."""
    for net in nets:
        name = input_name(server, net)
        for rows in ROWS:
            for form, build in _FORMS.items():
                asking = Asking(net, rows, form)
                request = written(asking, build, folder, name)
                refused = refusal(server, request)
                if refused:
                    _console.print(f"{asking} is left out: the server answers {refused}")
                else:
                    yield asking, request


def _goals(bench: Bench, asking: Asking, request: Path, cells: list[Row]) -> Iterator[Row]:
    """The goals of a question, which are those of binary requests."""
    if asking.form == "json":
        return
    yield wire_cost(bench, asking, request) if asking.rows == MANY else lone(bench, asking, request)
    yield saturated(bench, asking, request)
    if asking.form == "oip":
        for spread in ("random", "even"):
            yield steady(bench, asking, request, most_requests(cells, asking), spread)


def _peers(folder: Path, extent: Extent, environments: Path | None) -> Iterator[Row]:
    """The cells of the peers that are here."""
    pythons, missing = peers_in(environments)
    for name in missing:
        _console.print(f"{name} is not in {environments or 'a folder that --peers names'}: not compared with.")
    for name, python in pythons.items():
        for net in extent.nets:
            serving, form = peer(name, python, net, folder)
            with serving as server:
                for rows in ROWS:
                    asking = Asking(net, rows, f"{name} json")
                    request = written(asking, form, folder)
                    refused = refusal(server, request)
                    if refused:
                        _console.print(f"{asking} is left out: it answers {refused}")
                        continue
                    yield from _cells(name, server, asking, request, _PEER_CLIENTS, extent.seconds)


def _cells(
    who: str, server: Server, asking: Asking, request: Path, numbers: tuple[int, ...], seconds: float
) -> Iterator[Row]:
    """One for each number of clients."""
    drive(server, request, 1, _WARM_S)
    for clients in numbers:
        driven = drive(server, request, clients, seconds)
        cell = _cell(who, asking, clients, driven)
        _console.print(f"{who} {asking}, {clients} clients: {driven.per_s * asking.rows:.4g} rows a second")
        yield cell


def _cell(who: str, asking: Asking, clients: int, driven: Driven) -> Row:
    return {
        "server": who,
        "net": asking.net,
        "rows": asking.rows,
        "form": "json" if who != "mcdrop" else asking.form,
        "clients": clients,
        "rows_s": driven.per_s * asking.rows,
        "requests_s": driven.per_s,
        **{f"p{level}_ms": 1e3 * driven.quantile_s(level / 100) for level in (50, 95, 99)},
        "server_cpu_ms": 1e3 * driven.server_s_each,
        "loop_cpu_ms": 1e3 * driven.loop_s_each,
        "load_cpu": driven.load_s / driven.seconds,
        "refused": " ".join(f"{number}×{outcome}" for outcome, number in driven.refused.items()),
    }


def _short(cell: Row) -> Row:
    """A cell in as many columns as fit."""
    levels = "/".join(f"{float(str(cell[f'p{level}_ms'])):.3g}" for level in (50, 95, 99))
    return {
        "server, net, B, form": " ".join(str(cell[name]) for name in ("server", "net", "rows", "form")),
        "clients": cell["clients"],
        "rows/s": cell["rows_s"],
        "p50/95/99 ms": levels,
        "CPU ms": cell["server_cpu_ms"],
        "of it loop": cell["loop_cpu_ms"],
        "load": cell["load_cpu"],
        "refused": cell["refused"],
    }


if __name__ == "__main__":
    typer.run(main)
