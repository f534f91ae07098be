"""Measures what predictions of a bundle cost on this machine."""

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
    """Costs of a batch.

    Attributes:
        rows: Number of rows.
        deterministic_s: Seconds of one pass without noise; with noise if only onnxruntime computes.
        predict_s: Seconds of T passes as the engine chooses to run them.
        dense_s: Seconds of T passes without thinning.
        thinned_s: Seconds of T passes with thinning; None if the network has nothing to thin.
    """

    rows: int
    deterministic_s: float
    predict_s: float
    dense_s: float
    thinned_s: float | None


def bench(predictor: Predictor, rows: int, options: PassOptions) -> BenchmarkRow:
    """Return the median cost of a prediction, on repeated rows of the probe, with the noise of the seed cached.

    Args:
        predictor: The model.
        rows: Number of rows.
        options: The passes to run.

    Returns:
        The costs.
    """
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
    """Return the median seconds of the runs that fit in a second, after two warm-up runs."""
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
