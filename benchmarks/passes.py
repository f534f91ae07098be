"""Claim: T passes cost less than with any other method, in every cell, and far less than with the loop people write.

One process, one intra-op thread, CPU time, the methods of a cell in turn, medians. `mcdrop` is predict(model, x,
passes=T, seed=…) under a new seed each time, `mcdrop warm` under the same seed again; both hold every measure, and the
mutual information is read, while the others make the T passes and nothing else. The first call for a network, which
captures and checks it, is not in the figures; it is printed.

The others: `loop` (T calls with dropout on, stacked), `repeated batch` (one call on T copies), `vmap` (torch.func.vmap
over passes, randomness="different", x not copied: what no noise reaches is done once; where torch refuses that, `vmap,
x expanded`), and the libraries of peers.py. Each must answer with passes that differ, of about the variance that the
loop has; one that does not, or fails, is left out of that network by name, with the reason. `deterministic` is one pass
of the network in eval mode.

A method other than ours whose call takes longer than its share of the time is run with fewer passes and scaled
linearly, `scaled`; one that shares the work before the noise (vmap, caching) from two such runs.

torch alone is enough. For the libraries, in the environment that runs this (none of mcdrop's own is replaced):
  pip install --no-deps -r benchmarks/peers.txt

Run: python benchmarks/passes.py [--quick] [--nets mlp --nets cnn] [--rows 32] [--passes 32] [--json FILE]
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import torch
import typer
from machine import report
from nets import NETS, alive, built
from peers import Run, installed, missing
from rich.console import Console
from torch import Tensor, nn

from dropout_core.predict import predict

OURS, LOOP, DETERMINISTIC = ("mcdrop", "mcdrop warm"), "loop", "deterministic"
VMAP, EXPANDED, CACHING = "vmap", "vmap, x expanded", "baal caching"
# how many times faster than the loop at T = 32, for B = 1, 32, 256
OVER_LOOP = {
    "mlp": {1: 10.0, 32: 8.0, 256: 12.0},
    "cnn": {1: 18.0, 32: 20.0, 256: 20.0},
    "resnet18": dict.fromkeys((1, 32, 256), 0.9 * 32),
    "transformer": dict.fromkeys((1, 32, 256), 1.5),
    "lstm": {1: 4.0, 32: 3.0, 256: 3.0},
}
# how many times faster than the best of the others in every cell: 1, and what two equal timings differ by
OVER_BEST = 0.95
# T = 32 in deterministic passes, at most
IN_PASSES = {"mlp": {32: 6.0, 256: 6.0}, "resnet18": dict.fromkeys((1, 32, 256), 1.3)}
_ROUNDS, _CHECKED_ROWS, _CHECKED_PASSES = 15, 2, 32
Cell = dict[str, object]


@dataclass(frozen=True)
class Timed:
    """Seconds of one call for all T passes, and whether they are scaled from fewer."""

    call: Callable[[], float]
    scaled: bool = False


def main(
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    nets: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NETS)}; all.")] = None,
    rows: Annotated[list[int] | None, typer.Option(help="B; 1, 32 and 256.")] = None,
    passes: Annotated[list[int] | None, typer.Option(help="T; 32 and 128.")] = None,
    seconds: Annotated[float | None, typer.Option(help="For one cell, about; 60.")] = None,
    quick: Annotated[bool, typer.Option(help="B of 1 and 32, T of 32, 2 seconds a cell.")] = False,
) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the libraries warn of networks they find no dropout in: those are left out anyway
    for library, reason in missing().items():
        Console().print(f"{library} is not installed ({reason}): not compared with.")
    found: list[Cell] = []
    for name in nets or list(NETS):
        model = built(name)
        methods, left_out = _checked(name, model)
        for num_rows in rows or ([1, 32] if quick else [1, 32, 256]):
            for num_passes in passes or ([32] if quick else [32, 128]):
                cell: Cell = {"net": name, "rows": num_rows, "passes": num_passes}
                timed = _cell(model, methods, _input(name, num_rows), num_passes, seconds or (2 if quick else 60))
                found += [{**cell, **row} for row in timed + left_out]
                Console().print(_line(cell, timed))
    report("T passes, 1 thread, CPU seconds", found, json)
    report("mcdrop against the others, and the goals", [_against(cell) for cell in _cells(found)], None)


def _input(name: str, num_rows: int) -> Tensor:
    return torch.randn(num_rows, *NETS[name].shape, generator=torch.Generator().manual_seed(1))


def _checked(name: str, model: nn.Module) -> tuple[dict[str, Run], list[Cell]]:
    """The methods that work on a network, and rows that say why the others are left out. Captures it for ours."""
    captured_s = _once(lambda: predict(model, _input(name, _CHECKED_ROWS), passes=1))
    Console().print(f"{name}: captured and checked in {captured_s:.1f} s, once for a network.")
    methods: dict[str, Run] = {}
    left_out: list[Cell] = []
    builders = {LOOP: _loop, "repeated batch": _repeated, VMAP: _vmap, EXPANDED: _vmap_expanded, **installed()}
    expected = _variance(_loop(copy.deepcopy(model)), name)
    for method, build in builders.items():
        if method == EXPANDED and VMAP in methods:
            continue  # slower: it would repeat what no noise reaches
        try:
            run = build(copy.deepcopy(model))
            why = _fault(_variance(run, name), expected)
        except Exception as error:  # noqa: BLE001 - however a library fails on a network is what there is to say of it
            why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if why:
            Console().print(f"{name}: {method} is left out: {why}")
            left_out.append(_row(method, None, 0, why=why))
        else:
            methods[method] = run
    return methods, left_out


def _variance(run: Run, name: str) -> float:
    """The variance over passes, the mean over rows and outputs."""
    torch.manual_seed(2)
    with torch.inference_mode():
        return float(run(_input(name, _CHECKED_ROWS), _CHECKED_PASSES).double().var(dim=0).mean())


def _fault(variance: float, expected: float) -> str:
    """What is wrong with a method, from its variance and the loop's. Rounding differs between equal passes, too.

    A factor of 3 is wide: it is 32 passes on 2 rows; no noise, or the same for all passes, is what it finds.
    """
    within = expected > 0 and 1 / 3 < variance / expected < 3
    return "" if within else f"its variance over passes is {variance:.1e}, that of the loop {expected:.1e}"


def _loop(model: nn.Module) -> Run:
    dropping = alive(model)
    return lambda x, passes: torch.stack([dropping(x) for _ in range(passes)])


def _repeated(model: nn.Module) -> Run:
    dropping = alive(model)
    return lambda x, passes: dropping(x.repeat(passes, *[1] * (x.dim() - 1))).unflatten(0, (passes, len(x)))


def _vmap(model: nn.Module) -> Run:
    dropping = alive(model)

    def run(x: Tensor, passes: int) -> Tensor:
        outputs: Tensor = torch.func.vmap(lambda _: dropping(x), randomness="different")(torch.empty(passes))
        return outputs

    return run


def _vmap_expanded(model: nn.Module) -> Run:
    dropping = torch.func.vmap(alive(model), randomness="different")
    return lambda x, passes: dropping(x.expand(passes, *x.shape))


def _cell(model: nn.Module, methods: dict[str, Run], x: Tensor, passes: int, seconds: float) -> list[Cell]:
    seeds = count()
    timed = {
        OURS[0]: Timed(lambda: _once(lambda: predict(model, x, passes=passes, seed=next(seeds)).mutual_information)),
        OURS[1]: Timed(lambda: _once(lambda: predict(model, x, passes=passes, seed=0).mutual_information)),
        **{name: _within(name, run, x, passes, seconds / 8) for name, run in methods.items()},
        DETERMINISTIC: Timed(lambda: _seconds(lambda x, _: model(x), x, 1)),
    }
    rounds = _in_turn(timed, seconds)
    cpu_s = {name: statistics.median(found[name] for found in rounds) for name in timed}
    return [_row(name, cpu_s[name], len(rounds), timed[name].scaled) for name in timed]


def _in_turn(timed: dict[str, Timed], seconds: float) -> list[dict[str, float]]:
    """Rounds until the time is up; the first is not counted unless it is the only one."""
    rounds: list[dict[str, float]] = []
    spent = 0.0
    while not rounds or (len(rounds) <= _ROUNDS and spent + spent / len(rounds) <= seconds):
        start = time.process_time()
        rounds.append({name: method.call() for name, method in timed.items()})
        spent += time.process_time() - start
    return rounds[1:] or rounds


def _within(name: str, run: Run, x: Tensor, passes: int, seconds: float) -> Timed:
    """A method at all T passes if one call takes no longer than this, else at fewer."""
    two = _seconds(run, x, 2)
    if name not in (VMAP, CACHING):
        some = max(2, int(passes * seconds / (two * passes / 2)))
        if some >= passes:
            return Timed(lambda: _seconds(run, x, passes))
        return Timed(lambda: _seconds(run, x, some) * passes / some, scaled=True)
    each = max(_seconds(run, x, 4) - two, 1e-9) / 2
    half = max(2, int((seconds - two) / each) // 3)
    mostly_shared = each * passes <= 2 * two  # little to save, and the difference of two such runs is noise
    if two + each * passes <= seconds or mostly_shared or 2 * half >= passes:
        return Timed(lambda: _seconds(run, x, passes))

    def extended() -> float:
        less, more = _seconds(run, x, half), _seconds(run, x, 2 * half)
        return more + (more - less) * (passes - 2 * half) / half

    return Timed(extended, scaled=True)


def _seconds(run: Run, x: Tensor, passes: int) -> float:
    with torch.inference_mode():
        return _once(lambda: run(x, passes))


def _once(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _row(method: str, cpu_s: float | None, rounds: int, scaled: bool = False, why: str = "") -> Cell:
    return {"method": method, "cpu_s": cpu_s, "rounds": rounds, "scaled": scaled, "why": why}


def _line(cell: Cell, timed: list[Cell]) -> str:
    figures = ", ".join(f"{row['method']} {1e3 * float(str(row['cpu_s'])):.4g}" for row in timed)
    return f"{cell['net']} B = {cell['rows']}, T = {cell['passes']}, ms: {figures}"


def _cells(found: list[Cell]) -> list[list[Cell]]:
    """The rows of each cell, without the methods that were left out."""
    keys = dict.fromkeys((row["net"], row["rows"], row["passes"]) for row in found)
    measured = [row for row in found if row["cpu_s"] is not None]
    return [[row for row in measured if (row["net"], row["rows"], row["passes"]) == key] for key in keys]


def _against(cell: list[Cell]) -> Cell:
    """Ours against the loop, the best of the others and one deterministic pass, each beside its goal."""
    cpu_s = {str(row["method"]): float(str(row["cpu_s"])) for row in cell}
    net, rows, passes = str(cell[0]["net"]), int(str(cell[0]["rows"])), cell[0]["passes"]
    ours, one_pass = cpu_s[OURS[0]], cpu_s[DETERMINISTIC]
    others = {name: found for name, found in cpu_s.items() if name not in (*OURS, DETERMINISTIC)}
    best = min(others, key=others.__getitem__)
    scaled = [row["method"] for row in cell if row["scaled"] and row["method"] in (LOOP, best)]
    goals = passes == 32
    over_loop = OVER_LOOP.get(net, {}).get(rows, "") if goals else ""
    in_passes = IN_PASSES.get(net, {}).get(rows, "") if goals else ""
    return {
        "net": net, "rows": rows, "passes": passes,
        "over_loop": cpu_s[LOOP] / ours, "goal ≥": over_loop,
        "warm_over_loop": cpu_s[LOOP] / cpu_s[OURS[1]],
        "best_other": best, "over_best": others[best] / ours, "goal of it ≥": OVER_BEST,
        "in_deterministic_passes": ours / one_pass, "goal ≤": in_passes,
        "scaled": ", ".join(dict.fromkeys(map(str, scaled))),
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
