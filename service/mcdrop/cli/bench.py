"""What an answer of a bundle costs on this machine, and what its engine chose."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dropout_core.engine.engine import Engine
from dropout_core.engine.masks import quiet
from dropout_core.engine.options import PassOptions
from dropout_core.engine.tuning import NEVER
from dropout_core.estimate.estimate import run_passes
from dropout_core.graph.inputs import num_rows, select_rows, sizes_of
from dropout_core.graph.stage import Stage
from mcdrop_models.loading.predictor import Predictor

_SECONDS = 1.0
_FEWEST, _MOST = 3, 200


@dataclass(frozen=True)
class BenchmarkRow:
    """Seconds for so many rows: one deterministic pass, T passes as they are run, and dense and thinned.

    deterministic_s: of one pass with its noise, where only onnxruntime computes. thinned_s: None where the network has
    nothing to thin.
    """

    rows: int
    deterministic_s: float
    predict_s: float
    dense_s: float
    thinned_s: float | None


def bench(predictor: Predictor, rows: int, options: PassOptions) -> BenchmarkRow:
    """The median cost of a prediction, the seed's noise kept from the one before. On the probe's rows, repeated."""
    program, engine = predictor.program, predictor.engine
    inputs = select_rows(predictor.probe, torch.arange(rows) % num_rows(predictor.probe))
    dense = engine.tuned(replace(engine.tuning, thin_rows=NEVER, thin_rows_cold=NEVER))
    thin = engine.tuned(replace(engine.tuning, thin_rows=1, thin_rows_cold=1))

    def predicted(by: Engine) -> Tensor:
        return run_passes(by, program.weights, inputs, options, predictor.manifest.output).mean

    stage = Stage(program.graph.nodes, keep=[program.graph.output])
    sizes = sizes_of(program.graph, inputs)

    @torch.inference_mode()
    def deterministic() -> Tensor:
        if program.graph.is_outline:
            return next(engine.run(program.weights, inputs, PassOptions(1, options.seed, "iid"))).outputs
        values = {**program.weights, **inputs}
        answer: Tensor = stage.run(values, sizes, program.device, quiet)[program.graph.output]
        return answer

    return BenchmarkRow(
        rows,
        _median(deterministic),
        _median(partial(predicted, engine)),
        _median(partial(predicted, dense)),
        _median(partial(predicted, thin)) if engine.thins(program.weights, inputs) else None,
    )


def _median(run: Callable[[], Tensor]) -> float:
    """The median seconds of as many runs as fit in a second, after two that are not counted."""
    seconds: list[float] = []
    begun = time.perf_counter()
    while len(seconds) < _FEWEST + 2 or (time.perf_counter() - begun < _SECONDS and len(seconds) < _MOST):
        start = time.perf_counter()
        result = run()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        seconds.append(time.perf_counter() - start)
    counted = sorted(seconds[2:])
    return counted[len(counted) // 2]
