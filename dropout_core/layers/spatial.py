"""Dropout of whole feature maps."""

import torch
from torch import Tensor

from dropout_core.layers.base import RateLayer, checked_rank


def spatial_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x · m / (1 − p) with one m ~ Bernoulli(1 − p) for each row and channel.

    Args:
        x: Input [B, C, *].
        p: Drop probability.
        training: Whether to drop; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    return torch.feature_dropout(x, p, training)


class SpatialDropout1d(RateLayer):
    """Drops whole channels of [B, C, L].

    Place the layer after a convolution's activation at p = 0.05 … 0.2. Neighbours along L carry the same information,
    so dropping single elements would remove little. In eval mode the layer returns its input.

    Args:
        p: Drop probability, between 0 and 1.

    Raises:
        InvalidInput: p is out of range, or the input does not have the axes [B, C, L].

    References:
        Tompson et al. 2015, arXiv 1411.4280, section 3.2.
    """

    _shape = "[B, C, L]"

    def forward(self, x: Tensor) -> Tensor:
        """Drop channels of x."""
        checked_rank(x, (self._shape.count(",") + 1,), self._shape)
        return spatial_dropout(x, self.p, self.training)


class SpatialDropout2d(SpatialDropout1d):
    """Drops whole feature maps of [B, C, H, W]; otherwise like SpatialDropout1d.

    Args:
        p: Drop probability, between 0 and 1.
    """

    _shape = "[B, C, H, W]"


class SpatialDropout3d(SpatialDropout1d):
    """Drops whole volumes of [B, C, D, H, W]; otherwise like SpatialDropout1d.

    Args:
        p: Drop probability, between 0 and 1.
    """

    _shape = "[B, C, D, H, W]"
