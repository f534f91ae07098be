"""Quantiles of the predictive distribution."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput

_BISECTIONS = 80
_WIDEST = 40.0  # standard deviations: the normal tail beyond is below 1e-300


def quantiles(values: Mapping[str, Tensor], levels: Sequence[float]) -> Tensor:
    """Return quantiles of the predictive distribution.

    Args:
        values: "value" [T, B, *P, C] and, if the network predicts a variance, "aleatoric" of the same shape. Without
            it the quantiles are those of the passes, linear between order statistics (Hyndman, Fan 1996, definition
            7). With it they are those of the mixture of T Gaussians, by bisection of its distribution function.
        levels: Levels, each strictly between 0 and 1.

    Returns:
        float64 [Q, B, *P, C].

    Raises:
        InvalidInput: A level is not strictly between 0 and 1.
    """
    wrong = [level for level in levels if not 0.0 < level < 1.0]
    if wrong:
        raise InvalidInput(f"the quantile levels {wrong} must lie strictly between 0 and 1.")
    draws = values["value"].double()
    if "aleatoric" not in values:
        return _of_passes(draws, levels)
    return torch.stack([_of_mixture(draws, values["aleatoric"].double().sqrt(), level) for level in levels])


def _of_passes(draws: Tensor, levels: Sequence[float]) -> Tensor:
    ordered = draws.sort(dim=0).values
    result = []
    for level in levels:
        position = level * (len(draws) - 1)
        below = int(position)
        above = min(below + 1, len(draws) - 1)
        result.append(torch.lerp(ordered[below], ordered[above], position - below))
    return torch.stack(result)


def _of_mixture(means: Tensor, stds: Tensor, level: float) -> Tensor:
    low, high = (means - _WIDEST * stds).amin(0), (means + _WIDEST * stds).amax(0)
    for _ in range(_BISECTIONS):
        middle = low + (high - low) / 2
        below = _mixture_cdf(middle, means, stds) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return low + (high - low) / 2


def _mixture_cdf(x: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    # a component of variance 0 is a step: 1 from its mean on
    standard = torch.where(stds > 0, (x - means) / stds, torch.where(x >= means, torch.inf, -torch.inf))
    cdf: Tensor = torch.special.ndtr(standard)
    return cdf.mean(0)
