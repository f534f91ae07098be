"""Claim: on a GPU, too, T passes cost less than the loop people write, and about what their arithmetic costs.

Networks of the size of ResNet-50 (224×224; dropout before the head, so that one pass of the body serves all T; and with
drop path in every block as well) and of BERT-base (12 layers of 768, length 128, p = 0.1 everywhere), with random
weights, in float32 without TF32 and in bfloat16, weights and inputs alike. Times are medians of CUDA events around a
call.

`mcdrop` is predict under a new seed each time, `mcdrop warm` under the same seed again; both hold every measure, and
the mutual information is read. `loop` is T calls with dropout on, stacked; `repeated batch` one call on T copies;
`deterministic` one pass in eval mode. A loop that would take too long is run with fewer passes and scaled, `scaled`.

`peak_share` is the floating point operations that a method does in a second over those of a large matmul of the same
type here; `bandwidth_share` the bytes that its operators read and write, as if nothing were fused or cached, over those
of a large copy here. Where a method finds no memory, `why` says so. The first call, which captures and checks, is in no
figure. `mean_error` and `mutual_information_error` are the largest differences of a prediction from the float32 one
under the same seed, which is under the same masks.

Without a CUDA device there is nothing to measure: the script says so and ends.
Run: python benchmarks/gpu.py [--quick] [--nets bert] [--rows 32] [--passes 32] [--dtypes bfloat16] [--json FILE]
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from gpu_nets import FULL, NETS, SMALL, built, rows_for
from machine import report
from nets import alive
from rich.console import Console
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dropout_core.predict import predict

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OURS, WARM, LOOP, REPEATED, DETERMINISTIC = "mcdrop", "mcdrop warm", "loop", "repeated batch", "deterministic"
_ROUNDS = 11
Row = dict[str, object]


class Moved(TorchDispatchMode):
    """The bytes that operators read and write; views move none, and a repeated element is read once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation here
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.nbytes += sum(min(one.nbytes, one.untyped_storage().nbytes()) for one in tensors)
        return result


@dataclass(frozen=True)
class Work:
    """What one call computes and moves."""

    flops: int
    nbytes: int


@dataclass(frozen=True)
class Clock:
    """Times calls on a device. seconds: about what the calls of one method may take together."""

    device: torch.device
    seconds: float

    def once(self, call: Callable[[], object]) -> float:
        """The seconds of one call, by CUDA events around it."""
        if self.device.type != "cuda":
            start_s = time.perf_counter()
            call()
            return time.perf_counter() - start_s
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        elapsed_ms: float = start.elapsed_time(end)
        return elapsed_ms / 1e3

    def median(self, call: Callable[[], object]) -> float:
        """The seconds of calls until the time is up; a first one is not counted where there is time for more."""
        first = self.once(call)
        rounds = min(_ROUNDS, int(self.seconds / first) - 1)
        return statistics.median([self.once(call) for _ in range(rounds)] if rounds > 0 else [first])


@dataclass(frozen=True)
class Cell:
    """A network in eval mode, a copy of it that drops, and rows: the calls that are timed."""

    model: nn.Module
    dropping: nn.Module
    x: Tensor
    passes: int

    def ours(self, seed: int) -> tuple[Tensor, Tensor]:
        """The predictive mean and the mutual information."""
        estimate = predict(self.model, self.x, passes=self.passes, seed=seed)
        return estimate.mean, estimate.mutual_information

    def methods(self) -> dict[str, Callable[[], object]]:
        """By name; the loop is left out, for it may be run with fewer passes."""
        seeds = count(1)
        return {
            OURS: lambda: self.ours(next(seeds)),
            WARM: lambda: self.ours(0),
            REPEATED: torch.inference_mode()(self._repeated),
            DETERMINISTIC: torch.inference_mode()(lambda: self.model(self.x)),
        }

    def loop(self, passes: int) -> Tensor:
        """So many passes with dropout on, stacked."""
        with torch.inference_mode():
            return torch.stack([self.dropping(self.x) for _ in range(passes)])

    def _repeated(self) -> Tensor:
        outputs: Tensor = self.dropping(self.x.repeat(self.passes, *[1] * (self.x.dim() - 1)))
        return outputs


def main(
    json: Annotated[Path | None, typer.Option(help="Keep the figures here.")] = None,
    nets: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NETS)}; all.")] = None,
    rows: Annotated[list[int] | None, typer.Option(help="B; 1, 32 and 256.")] = None,
    passes: Annotated[list[int] | None, typer.Option(help="T; 32 and 128.")] = None,
    dtypes: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(DTYPES)}; all.")] = None,
    device: Annotated[str, typer.Option(hidden=True)] = "cuda",
    quick: Annotated[bool, typer.Option(help="Networks a thousand times smaller, to see that all of it runs.")] = False,
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        Console().print("torch finds no CUDA device here: nothing is measured.")
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of nn.TransformerEncoder, which would rather have nested tensors
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    place, scale = torch.device(device), SMALL if quick else FULL
    clock = Clock(place, 0.5 if quick else 20.0)
    peaks = {name: _peaks(clock, DTYPES[name], quick) for name in dtypes or list(DTYPES)}
    for name, (flops, nbytes) in peaks.items():
        Console().print(f"{_name(place)}, {name}: {flops / 1e12:.4g} TFLOP/s, {nbytes / 1e9:.4g} GB/s.")
    found: list[Row] = []
    for net in nets or list(NETS):
        exact = built(net, scale).to(place)
        typed = {name: exact if name == "float32" else copy.deepcopy(exact).to(DTYPES[name]) for name in peaks}
        models = {name: (model, alive(copy.deepcopy(model))) for name, model in typed.items()}
        for num_rows in rows or [1, 32, 256]:
            x = rows_for(net, scale, num_rows).to(place)
            for num_passes in passes or [32, 128]:
                reference = Cell(exact, exact, x, num_passes)
                for name, (model, dropping) in models.items():
                    cell = Cell(model, dropping, x.to(DTYPES[name]) if x.is_floating_point() else x, num_passes)
                    here: Row = {"net": net, "dtype": name, "rows": num_rows, "passes": num_passes}
                    timed = _timed(cell, clock, peaks[name], reference)
                    found += [{**here, **row} for row in timed]
                    figures = ", ".join(f"{row['method']} {row['why'] or row['ms']}" for row in timed)
                    Console().print(f"{net} {name} B = {num_rows}, T = {num_passes}, ms: {figures}")
    report(f"T passes on {_name(place)}", found, json)


def _timed(cell: Cell, clock: Clock, peaks: tuple[float, float], reference: Cell) -> list[Row]:
    """A row for each method, the errors of ours against the reference beside it."""
    errors = [float((a - b).abs().max()) for a, b in zip(cell.ours(0), reference.ours(0), strict=True)]
    seconds: dict[str, float | None] = {name: _tried(clock, call) for name, call in cell.methods().items()}
    seconds[LOOP], scaled = _loop(cell, clock)
    ours, one_pass = _work(lambda: cell.ours(0)), Work(0, 0)
    if seconds[LOOP] is not None:  # there is memory for it
        one_pass = _work(lambda: cell.loop(1))
    in_all = Work(one_pass.flops * cell.passes, one_pass.nbytes * cell.passes)
    work = {OURS: ours, WARM: ours, LOOP: in_all, REPEATED: in_all, DETERMINISTIC: one_pass}
    one = seconds[DETERMINISTIC]
    rows: list[Row] = []
    for name, taken in seconds.items():
        done = work[name]
        rows.append(
            {
                "method": name,
                "ms": 1e3 * taken if taken is not None else None,
                "in_deterministic_passes": taken / one if taken is not None and one is not None else None,
                "peak_share": done.flops / taken / peaks[0] if taken is not None else None,
                "bandwidth_share": done.nbytes / taken / peaks[1] if taken is not None else None,
                "mean_error": errors[0] if name == OURS else None,
                "mutual_information_error": errors[1] if name == OURS else None,
                "scaled": scaled and name == LOOP,
                "why": "out of memory" if taken is None else "",
            }
        )
    return rows


def _peaks(clock: Clock, dtype: torch.dtype, quick: bool) -> tuple[float, float]:
    """Operations a second of a large matmul, bytes a second of a large copy."""
    size, nbytes = (256, 2**22) if quick else (8192, 2**30)
    a, b = (torch.randn(size, size, device=clock.device, dtype=dtype) for _ in range(2))
    source = torch.zeros(nbytes, device=clock.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    matmul_s, copy_s = clock.median(lambda: a @ b), clock.median(lambda: target.copy_(source))
    return 2 * size**3 / matmul_s, 2 * nbytes / copy_s


def _tried(clock: Clock, call: Callable[[], object]) -> float | None:
    """The seconds of a call, or None where it finds no memory."""
    try:
        return clock.median(call)
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # outside of the except clause, which keeps the call's tensors alive
    return None


def _loop(cell: Cell, clock: Clock) -> tuple[float | None, bool]:
    """The seconds of all passes, and whether they are scaled from fewer."""
    two = _tried(clock, lambda: cell.loop(2))
    if two is None:
        return None, False
    some = max(2, min(cell.passes, int(2 * clock.seconds / two)))
    taken = _tried(clock, lambda: cell.loop(some))
    return None if taken is None else taken * cell.passes / some, some < cell.passes


def _work(call: Callable[[], object]) -> Work:
    with Moved() as moved, FlopCounterMode(display=False) as flops:
        call()
    return Work(flops.get_total_flops(), moved.nbytes)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


if __name__ == "__main__":
    typer.run(main)
