"""Every kind of site: the draws it takes, what it makes of its input, and what that is with its noise off.

One row a kind. Noise off means every draw at its mean: 1 / keep times a mask is 1 then, a Bernoulli draw is its
probability, a normal one 0. Whatever is linear in each of its independent draws is so at its expectation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dropout_core.noise import keep_mask, normal, words

# SELU's value far to the left, −λ·α (Klambauer et al. 2017).
SELU_FLOOR = -1.7580993408473766


@dataclass(frozen=True)
class Kind:
    """How the sites of one kind take their noise.

    noise: (seed, site, passes, shape, rate, dtype of the input) → draws [t, *shape]. apply: (input, draws, rate),
    where the first two broadcast together, → the site's value. quiet: (input, rate) → the value with the noise off.
    rated: whether a rate above 0 and up to 1 belongs to it. per_channel: one draw for each channel, axis 1, not for
    each unit.
    """

    noise: Callable[[int, int, Tensor, Sequence[int], float, torch.dtype], Tensor]
    apply: Callable[[Tensor, Tensor, float], Tensor]
    quiet: Callable[[Tensor, float], Tensor]
    rated: bool = True
    per_channel: bool = False


def alpha_affine(rate: float) -> tuple[float, float]:
    """Scale and shift that keep zero mean and unit variance when dropped units are set to SELU_FLOOR.

    Source: Klambauer et al. 2017, section "New dropout technique": a = (q + α'² q p)^(−1/2), b = −a·p·α', q = 1 − p.
    """
    keep = 1.0 - rate
    scale = 1.0 / math.sqrt(keep * (1.0 + SELU_FLOOR**2 * rate)) if keep > 0 else 0.0
    return scale, -scale * rate * SELU_FLOOR


def _inverted(seed: int, site: int, passes: Tensor, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
    return keep_mask(seed, site, passes, shape, rate).to(dtype) * (1.0 / (1.0 - rate) if rate < 1 else 0.0)


def _multiply(value: Tensor, draws: Tensor, _: float) -> Tensor:
    return value * draws


def _kept(seed: int, site: int, passes: Tensor, shape: Sequence[int], rate: float, _: torch.dtype) -> Tensor:
    return keep_mask(seed, site, passes, shape, rate)


def _alpha(value: Tensor, kept: Tensor, rate: float) -> Tensor:
    scale, shift = alpha_affine(rate)
    return torch.where(kept, value * scale + shift, scale * SELU_FLOOR + shift)


def _words(seed: int, site: int, passes: Tensor, shape: Sequence[int], _: float, __: torch.dtype) -> Tensor:
    return words(seed, site, passes, shape)


def _below(probability: Tensor, drawn: Tensor, _: float) -> Tensor:
    return (drawn >= (1.0 - probability.double()) * 2.0**32).to(probability.dtype)


def _normal(seed: int, site: int, passes: Tensor, shape: Sequence[int], _: float, dtype: torch.dtype) -> Tensor:
    return normal(seed, site, passes, shape).to(dtype)


def _spread(template: Tensor, draws: Tensor, _: float) -> Tensor:
    return draws.to(template.dtype).expand(torch.broadcast_shapes(template.shape, draws.shape))


def _itself(value: Tensor, _: float) -> Tensor:
    return value


def _zeros(template: Tensor, _: float) -> Tensor:
    return torch.zeros_like(template)


def _keep(template: Tensor, rate: float) -> Tensor:
    return torch.full_like(template, 1.0 - rate)


KINDS = {
    "dropout": Kind(_inverted, _multiply, _itself),
    "feature_dropout": Kind(_inverted, _multiply, _itself, per_channel=True),
    "alpha_dropout": Kind(_kept, _alpha, _itself),
    "feature_alpha_dropout": Kind(_kept, _alpha, _itself, per_channel=True),
    "unscaled": Kind(_kept, _spread, _keep),
    "bernoulli": Kind(_words, _below, _itself, rated=False),
    "normal": Kind(_normal, _spread, _zeros, rated=False),
}
