"""Acquisition: which rows should a human label next? Larger scores first."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput, UnknownMeasure
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


def checked_score(score: str, known: Collection[str]) -> str:
    """A score's name, if it is one of a model that has these measures. Raises UnknownMeasure, listing the scores."""
    if score == RANDOM or (score in SCORES and score in known):
        return score
    available = [name for name in SCORES if name in known]
    raise UnknownMeasure(f"there is no score {score!r} for this model; there are {', '.join([*available, RANDOM])}.")


def rank(score: str, num_rows: int, k: int, seed: int, values: Callable[[], Tensor]) -> Ranking:
    """The k rows to label first. Equal scores keep the order of the rows.

    score: a checked one. values: the measure of that name, [B] or [B, C]; called unless the score is "random", which
    never runs the network. A score with several outputs is reduced by their mean.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; ask for at least 1 row.")
    if score == RANDOM:
        passes = torch.zeros(1, dtype=torch.int64)
        scores, sign, reduction = uniform(seed, _RANDOM_SITE, passes, (num_rows,))[0], 1.0, None
    else:
        scores, reduction = _reduced(values())
        sign = SCORES[score]
    order = torch.argsort(scores * sign, descending=True, stable=True)[:k]
    return Ranking(order, scores[order], reduction)


def _reduced(values: Tensor) -> tuple[Tensor, str | None]:
    """One number for each row [B], and how several outputs became one."""
    return (
        (values.mean(-1), "mean") if values.dim() > 1 and values.shape[-1] > 1 else (values.reshape(len(values)), None)
    )
