"""The cost of a row on this machine, measured when a model is loaded."""

import time
from dataclasses import dataclass, replace

import torch

from dropout_core.graph.inputs import num_rows, select_rows
from mcdrop_models.loading.predictor import Predictor

_FEW, _MANY = 16, 32
_MOST_ROWS = 64
_ENOUGH_S = 0.1
_LEAST_S = 1e-7


@dataclass(frozen=True)
class RowCost:
    """The marginal cost of a row.

    Attributes:
        row_s: Seconds for the row itself.
        pass_s: Seconds for each of its passes.
    """

    row_s: float
    pass_s: float

    def of_row(self, passes: int) -> float:
        """Return the seconds that a row takes.

        Args:
            passes: The number of passes.

        Returns:
            The seconds that a row takes.
        """
        return self.row_s + passes * self.pass_s


def measure_row_cost(predictor: Predictor) -> RowCost:
    """Estimate the marginal cost of a row and of a pass by timing three batch shapes.

    The fixed overhead of a batch is excluded. The runs also warm the model up.

    Args:
        predictor: The model, timed on the rows it was published with.

    Returns:
        The marginal cost.
    """
    alone = _seconds(predictor, 1, _FEW)
    rows = max(2, min(_MOST_ROWS, int(_ENOUGH_S / alone)))
    few, many = (_seconds(predictor, rows, passes) for passes in (_FEW, _MANY))
    pass_s = max((many - few) / (_MANY - _FEW) / rows, _LEAST_S)
    return RowCost(max((few - alone) / (rows - 1) - _FEW * pass_s, 0.0), pass_s)


def _seconds(predictor: Predictor, rows: int, passes: int) -> float:
    """Time one batch, on its second run if the first is short: the first one makes the noise and the chunk sizes."""
    inputs = select_rows(predictor.probe, torch.arange(rows) % num_rows(predictor.probe))
    plan = replace(predictor.manifest.pass_options, passes=passes)
    for _ in range(2):
        began = time.perf_counter()
        predictor.estimate(inputs, plan).mean.cpu()  # waits for a GPU
        seconds = time.perf_counter() - began
        if seconds > _ENOUGH_S:
            break
    return seconds
