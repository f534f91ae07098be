"""Class probabilities of several passes, as callers hand them to the joint scores."""

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput

# what a sum of float16 or bfloat16 probabilities can miss 1 by
_SUM_TOLERANCE = 0.02


def check_probabilities(name: str, probs: Tensor) -> None:
    """Refuse what is not [T, B, C] probabilities over classes. Never guesses: logits are refused, not mended.

    Raises InvalidInput for another rank, no pass, no class, integers, values below 0 or not finite, and classes
    whose probabilities do not sum to 1.
    """
    if probs.dim() != 3 or 0 in (probs.shape[0], probs.shape[2]) or not probs.is_floating_point():
        raise InvalidInput(
            f"{name} is {probs.dtype} of shape {tuple(probs.shape)}; floating-point [passes, rows, classes] is wanted."
        )
    for one in probs:
        sums = one.sum(-1, dtype=torch.float64) if bool((one >= 0).all()) else None
        if sums is None or bool(((sums - 1).abs() > _SUM_TOLERANCE).any()):
            raise InvalidInput(
                f"{name} is not probabilities: at least 0, summing to 1 over classes, the last axis, is wanted."
            )


def normalized(probs: Tensor) -> Tensor:
    """The probabilities as float64 that sum to 1 over the last axis."""
    exact = probs.to(torch.float64)
    return exact / exact.sum(-1, keepdim=True)
