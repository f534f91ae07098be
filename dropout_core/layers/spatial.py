"""Dropout of whole feature maps."""

import torch
from torch import Tensor

from dropout_core.layers.base import RateLayer, checked_rank


def spatial_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x · m / (1 − p), with one m ~ Bernoulli(1 − p) for each row and channel of x [B, C, *]."""
    return torch.feature_dropout(x, p, training)


class SpatialDropout1d(RateLayer):
    """Drops whole channels of [B, C, L].

    Shape: [B, C, L], unchanged. Place it after a convolution's activation, at 0.05 … 0.2: neighbours along L say the
    same, so that dropping single elements would take little away.
    Source: Tompson et al. 2015, arXiv 1411.4280, section 3.2.
    """

    _shape = "[B, C, L]"

    def forward(self, x: Tensor) -> Tensor:
        """Drop channels of x."""
        checked_rank(x, (self._shape.count(",") + 1,), self._shape)
        return spatial_dropout(x, self.p, self.training)


class SpatialDropout2d(SpatialDropout1d):
    """Drops whole feature maps of [B, C, H, W]; otherwise as SpatialDropout1d."""

    _shape = "[B, C, H, W]"


class SpatialDropout3d(SpatialDropout1d):
    """Drops whole volumes of [B, C, D, H, W]; otherwise as SpatialDropout1d."""

    _shape = "[B, C, D, H, W]"
