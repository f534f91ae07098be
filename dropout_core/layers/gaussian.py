"""Multiplicative Gaussian noise."""

import math

import torch
from torch import Tensor

from dropout_core.layers.base import Rate, RateLayer


def gaussian_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x · n with n ~ N(1, p / (1 − p)) for each unit.

    Args:
        x: Input of any shape.
        p: Drop probability of the dropout with the same variance, below 1.
        training: Whether to multiply; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    if not training or p == 0:
        return x
    return x * (1.0 + math.sqrt(p / (1.0 - p)) * torch.randn_like(x))


class GaussianDropout(RateLayer):
    """Multiplies each unit by N(1, p / (1 − p)): the mean and variance of dropout at p, without losing a unit.

    The input may have any shape, which is kept. Place it where Dropout would stand. In eval mode the layer returns its
    input.

    Args:
        p: Drop probability of the dropout with the same variance, at least 0 and below 1.

    Raises:
        InvalidInput: p is out of range; at p = 1 the variance is infinite.

    References:
        Srivastava et al. 2014, JMLR 15, section 10.
    """

    p = Rate(below_one=True)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x by noise."""
        return gaussian_dropout(x, self.p, self.training)
