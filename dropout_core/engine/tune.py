"""Measuring an engine's choices on the machine that will run it: a few seconds, once for each network."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dropout_core.engine.engine import Engine
from dropout_core.engine.network import Network
from dropout_core.engine.options import PassOptions
from dropout_core.engine.tuning import NEVER, Tuning
from dropout_core.graph.inputs import NamedTensors, inputs_by_name, num_rows, select_rows
from dropout_core.graph.program import Program

_PASSES = 32
_ROWS = (1, 4, 16, 64, 256)
_USUAL = 2**20
_CHUNK_BYTES = (2**18, _USUAL, 2**22)
_FASTER = 0.9
_MOST_CHUNK_ROWS = 64
_ROUNDS = 3
_LONGEST_S = 0.3  # a measurement that takes longer is the last of its kind


@dataclass(frozen=True)
class Timed:
    """Seconds of a run.

    Attributes:
        rows: Number of rows.
        dense_s: Seconds of dense passes.
        thin_s: Seconds of thinned passes.
    """

    rows: int
    dense_s: float
    thin_s: float


def tune(program: Program, example: Tensor | NamedTensors, network: Network | None = None) -> Tuning:
    """Measure the choices for a network.

    Args:
        program: The program.
        example: At least one row of its inputs.
        network: What computes its halves; torch by default.

    Returns:
        The choices.
    """
    inputs = inputs_by_name(program.graph, example)
    engine = Engine(program, network=network)
    tuning = Tuning(NEVER, NEVER, _chunk_bytes(engine, program, inputs))
    dense, thin = engine.tuned(tuning), engine.tuned(replace(tuning, thin_rows=1, thin_rows_cold=1))
    if not dense.thins(program.weights, inputs):
        return tuning
    timed = list(_timed(program, inputs, dense, thin))
    one, cold_seeds = _repeated(inputs, 1), itertools.count(1)
    making_s = _best(lambda: _run(thin, program, one, next(cold_seeds)), 2) - timed[0].thin_s
    return replace(tuning, thin_rows=warm_rows(timed), thin_rows_cold=cold_rows(timed, making_s))


def warm_rows(timed: Sequence[Timed]) -> int:
    """Return the number of rows from which on thinned passes were never slower.

    Args:
        timed: Measurements.

    Returns:
        The number.
    """
    slower = [one.rows for one in timed if one.thin_s > one.dense_s]
    faster = [one.rows for one in timed if one.rows > max(slower, default=0)]
    return min(faster, default=NEVER)


def cold_rows(timed: Sequence[Timed], making_s: float) -> int:
    """Return the number of rows from which on thinned passes pay for making their weights; gains grow with the rows.

    Args:
        timed: Measurements.
        making_s: Seconds of making the weights.

    Returns:
        The number.
    """
    most = timed[-1]
    if warm_rows(timed) == NEVER:
        return NEVER
    gain_s = (most.dense_s - most.thin_s) / most.rows
    return max(warm_rows(timed), round(max(making_s, 0.0) / gain_s)) if gain_s > 0 else NEVER


def _chunk_bytes(engine: Engine, program: Program, inputs: NamedTensors) -> int | None:
    """Return the fastest chunk size; None if the default is about as fast, or a device has room for everything."""
    if next(iter(inputs.values())).device.type != "cpu":
        return None
    rows = _affordable(engine, program, inputs)
    engines = {budget: engine.tuned(Tuning(NEVER, NEVER, budget)) for budget in _CHUNK_BYTES}
    if len({engine.chunk_rows(program.weights, rows) for engine in engines.values()}) == 1:
        return None
    times: dict[int, float] = {}
    for budget, one in engines.items():
        times[budget] = _best(partial(_run, one, program, rows, 0), _ROUNDS)
    fastest = min(times, key=lambda budget: times[budget])
    return fastest if times[fastest] < _FASTER * times[_USUAL] else None


def _affordable(engine: Engine, program: Program, inputs: NamedTensors) -> NamedTensors:
    """Return as many rows, up to 64, as run in the time of the longest measurement; a few chunks would tell little."""
    seconds = _best(partial(_run, engine, program, _repeated(inputs, 1), 0), 1)
    return _repeated(inputs, max(1, min(_MOST_CHUNK_ROWS, int(_LONGEST_S / seconds))))


def _timed(program: Program, inputs: NamedTensors, dense: Engine, thin: Engine) -> Sequence[Timed]:
    timed = []
    for count in _ROWS:
        rows = _repeated(inputs, count)
        each = [_best(partial(_run, engine, program, rows, 0), _ROUNDS) for engine in (dense, thin)]
        timed.append(Timed(count, *each))
        if max(each) > _LONGEST_S:
            break
    return timed


def seconds(engine: Engine, program: Program, example: NamedTensors, count: int) -> float:
    """Return the shortest time of 32 passes.

    Args:
        engine: The engine.
        program: The program.
        example: Rows to repeat.
        count: Number of rows.

    Returns:
        Seconds.
    """
    return _best(partial(_run, engine, program, _repeated(example, count), 0), _ROUNDS)


def _run(engine: Engine, program: Program, inputs: NamedTensors, seed: int) -> None:
    for chunk in engine.run(program.weights, inputs, PassOptions(_PASSES, seed)):
        last = chunk.outputs
    if last.is_cuda:
        torch.cuda.synchronize(last.device)


def _best(run: Callable[[], None], rounds: int) -> float:
    """Return the shortest of some runs after a warm-up: other work on the machine only adds time."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > _LONGEST_S:
            break
    return min(seconds[1:] or seconds)


def _repeated(inputs: NamedTensors, count: int) -> Mapping[str, Tensor]:
    places = torch.arange(count) % num_rows(inputs)
    return select_rows(inputs, places)
