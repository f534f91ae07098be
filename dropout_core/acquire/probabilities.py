"""Checks of the class probabilities that callers pass to the joint scores."""

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput

# what a sum of float16 or bfloat16 probabilities can miss 1 by
_SUM_TOLERANCE = 0.02


def check_probabilities(name: str, probs: Tensor) -> None:
    """Check that an array contains class probabilities [T, B, C]. Logits are refused and never converted.

    Args:
        name: Name of the argument, for the error.
        probs: The array.

    Raises:
        InvalidInput: The rank is not 3, there is no pass or no class, the values are integers, negative or not finite,
            or the probabilities of a row do not sum to 1.
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
    """Return probabilities in float64, divided by their sum over the last axis.

    Args:
        probs: Class probabilities, [..., C].

    Returns:
        Probabilities that sum to 1, float64, in the shape of `probs`.
    """
    exact = probs.to(torch.float64)
    return exact / exact.sum(-1, keepdim=True)
