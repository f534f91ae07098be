"""Multiplicative Gaussian noise."""

import math

import torch
from torch import Tensor

from dropout_core.layers.base import Rate, RateLayer


def gaussian_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x · n with n ~ N(1, p / (1 − p)) for each unit. Any shape; p below 1."""
    if not training or p == 0:
        return x
    return x * (1.0 + math.sqrt(p / (1.0 - p)) * torch.randn_like(x))


class GaussianDropout(RateLayer):
    """Multiplies each unit by N(1, p / (1 − p)): the mean and variance of dropout at p, and no unit lost.

    Shape: any, unchanged. Place it where Dropout would stand. Raises InvalidInput for p = 1: its variance is
    infinite.
    Source: Srivastava et al. 2014, JMLR 15, section 10.
    """

    p = Rate(below_one=True)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x by noise."""
        return gaussian_dropout(x, self.p, self.training)
