"""Noise kinds: the draws that a site takes, what it computes with its input, and its value with the noise off.

One row per kind. With the noise off every draw is at its mean: a mask over keep is 1, a Bernoulli draw is its
probability, a uniform draw ½, an exponential draw 1, a normal draw 0. Everything that is linear in each of its
independent draws is then at its expectation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dropout_core.noise.philox import drop_threshold, normal_of

# SELU's value far to the left, −λ·α (Klambauer et al. 2017).
SELU_FLOOR = -1.7580993408473766


@dataclass(frozen=True)
class NoiseKind:
    """How the sites of one kind take their noise.

    Attributes:
        draw: Maps (random words, rate, dtype of the input) to a draw for each word.
        apply: Maps (input, draws, rate) to the site's value; input and draws broadcast.
        quiet: Maps (input, rate) to the value with the noise off.
        rated: Whether the kind has a rate above 0 and up to 1. A rated draw is a step: one value below
            drop_threshold(rate), another from it on.
        per_channel: Whether there is one draw per channel (axis 1) instead of one per unit.
    """

    draw: Callable[[Tensor, float, torch.dtype], Tensor]
    apply: Callable[[Tensor, Tensor, float], Tensor]
    quiet: Callable[[Tensor, float], Tensor]
    rated: bool = True
    per_channel: bool = False


def alpha_affine(rate: float) -> tuple[float, float]:
    """Return the scale and shift that keep mean 0 and variance 1 when dropped units are set to SELU_FLOOR.

    Args:
        rate: Drop probability p.

    Returns:
        a = (q + α'² q p)^(−1/2) and b = −a·p·α' with q = 1 − p.

    References:
        Klambauer et al. 2017, section "New dropout technique".
    """
    keep = 1.0 - rate
    scale = 1.0 / math.sqrt(keep * (1.0 + SELU_FLOOR**2 * rate)) if keep > 0 else 0.0
    return scale, -scale * rate * SELU_FLOOR


def _inverted(words: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    # in bfloat16 the scale itself would be rounded: 1 / 0.9 to 1.109375, one way for all units
    fine = torch.promote_types(dtype, torch.float32)
    return (words >= drop_threshold(rate)).to(fine) * (1.0 / (1.0 - rate) if rate < 1 else 0.0)


def _multiply(value: Tensor, draws: Tensor, _: float) -> Tensor:
    product = value * draws
    return product if product.dtype == value.dtype else product.to(value.dtype)


def _kept(words: Tensor, rate: float, _: torch.dtype) -> Tensor:
    return words >= drop_threshold(rate)


def _alpha(value: Tensor, kept: Tensor, rate: float) -> Tensor:
    scale, shift = alpha_affine(rate)
    return torch.where(kept, value * scale + shift, scale * SELU_FLOOR + shift)


def _words(words: Tensor, _: float, __: torch.dtype) -> Tensor:
    return words


def _below(probability: Tensor, drawn: Tensor, _: float) -> Tensor:
    return (drawn >= (1.0 - probability.double()) * 2.0**32).to(probability.dtype)


def _normal(words: Tensor, _: float, dtype: torch.dtype) -> Tensor:
    return normal_of(words).to(dtype)


def _uniform(words: Tensor, _: float, dtype: torch.dtype) -> Tensor:
    """Draw with as many bits as the dtype resolves below 1, as torch.rand does: rounding to 1 would leave the range."""
    spare = max(0, 31 + round(math.log2(torch.finfo(dtype).eps)))
    return ((words >> spare).double() * 2.0 ** (spare - 32)).to(dtype)


def _exponential(words: Tensor, _: float, dtype: torch.dtype) -> Tensor:
    """Draw −log of the middle of the interval of 2^-32 that a word names: above 0 in every dtype, and at most 22.9."""
    return ((words.double() + 0.5) * 2.0**-32).log().neg().clamp_min(torch.finfo(dtype).tiny).to(dtype)


def _spread(template: Tensor, draws: Tensor, _: float) -> Tensor:
    return draws.to(template.dtype).expand(torch.broadcast_shapes(template.shape, draws.shape))


def _itself(value: Tensor, _: float) -> Tensor:
    return value


def _zeros(template: Tensor, _: float) -> Tensor:
    return torch.zeros_like(template)


def _halves(template: Tensor, _: float) -> Tensor:
    return torch.full_like(template, 0.5)


def _ones(template: Tensor, _: float) -> Tensor:
    return torch.ones_like(template)


def _keep(template: Tensor, rate: float) -> Tensor:
    return torch.full_like(template, 1.0 - rate)


NOISE_KINDS = {
    "dropout": NoiseKind(_inverted, _multiply, _itself),
    "feature_dropout": NoiseKind(_inverted, _multiply, _itself, per_channel=True),
    "alpha_dropout": NoiseKind(_kept, _alpha, _itself),
    "feature_alpha_dropout": NoiseKind(_kept, _alpha, _itself, per_channel=True),
    "unscaled": NoiseKind(_kept, _spread, _keep),
    "bernoulli": NoiseKind(_words, _below, _itself, rated=False),
    "uniform": NoiseKind(_uniform, _spread, _halves, rated=False),
    "exponential": NoiseKind(_exponential, _spread, _ones, rated=False),
    "normal": NoiseKind(_normal, _spread, _zeros, rated=False),
}
