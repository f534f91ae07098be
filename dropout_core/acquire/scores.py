"""Acquisition: which rows should a human label next? Larger scores first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.mc.estimate import Estimate
from dropout_core.noise import uniform

RANDOM = "random"
# a counter site of its own: a network's sites count from 0
_RANDOM_SITE = 2**32 - 1

# A measure by the score's name; the sign that makes "label this first" the largest value.
SCORES: Mapping[str, float] = {
    "mutual_information": 1.0,
    "predictive_entropy": 1.0,
    "margin": -1.0,
    "variance": 1.0,
}


@dataclass(frozen=True)
class Ranking:
    """The chosen rows, best first. scores: theirs, in the measure's own sign. reduction: over outputs, if any."""

    indices: Tensor
    scores: Tensor
    reduction: str | None


def rank(
    score: str, num_rows: int, k: int, seed: int, estimate: Callable[[], Estimate], known: tuple[str, ...]
) -> Ranking:
    """The k rows to label first. Equal scores keep the order of the rows.

    estimate: called unless the score is "random", which never runs the network. known: the measures the task has.
    A score with several outputs is reduced by their mean. Raises UnknownMeasure, listing the scores the task has.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; ask for at least 1 row.")
    if score == RANDOM:
        passes = torch.zeros(1, dtype=torch.int64)
        values, sign, reduction = uniform(seed, _RANDOM_SITE, passes, (num_rows,))[0], 1.0, None
    elif score in SCORES and score in known:
        values, reduction = _reduced(estimate().measure(score))
        sign = SCORES[score]
    else:
        available = [name for name in SCORES if name in known]
        raise UnknownMeasure(
            f"there is no score {score!r} for this model; there are {', '.join([*available, RANDOM])}."
        )
    order = torch.argsort(values * sign, descending=True, stable=True)[:k]
    return Ranking(order, values[order], reduction)


def _reduced(values: Tensor) -> tuple[Tensor, str | None]:
    """One number for each row [B], and how several outputs became one."""
    return (
        (values.mean(-1), "mean") if values.dim() > 1 and values.shape[-1] > 1 else (values.reshape(len(values)), None)
    )
