"""Dropout of single units: the standard form, and the form that keeps SELU's mean and variance."""

import torch.nn.functional as F
from torch import Tensor

from dropout_core.layers.base import RateLayer


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x · m / (1 − p) with m ~ Bernoulli(1 − p) for each unit.

    Args:
        x: Input of any shape.
        p: Drop probability.
        training: Whether to drop; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    return F.dropout(x, p, training)


class Dropout(RateLayer):
    """Inverted dropout: each unit becomes 0 with probability p and is divided by 1 − p otherwise.

    The input may have any shape, which is kept. Place the layer between the fully connected layers of a head, after the
    activation, at p = 0.1 … 0.5. On the maps of a convolution use SpatialDropout or DropBlock, because neighbouring
    pixels carry the same information. In eval mode the layer returns its input.

    Args:
        p: Drop probability, between 0 and 1.

    Raises:
        InvalidInput: p is out of range.

    References:
        Hinton et al. 2012, arXiv 1207.0580. Srivastava et al. 2014, JMLR 15, section 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        return dropout(x, self.p, self.training)


def alpha_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return a · (x · m + α' · (1 − m)) + b with m ~ Bernoulli(1 − p) for each unit.

    α' = −1.7581 is SELU's floor, a = ((1 − p)(1 + p·α'²))^(−1/2) and b = −a·p·α'. An input with mean 0 and variance 1
    keeps both. At p = 1 the output is 0.

    Args:
        x: Input of any shape.
        p: Drop probability.
        training: Whether to drop; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    return F.alpha_dropout(x, p, training)


class AlphaDropout(RateLayer):
    """Dropout for self-normalising networks: dropped units go to SELU's floor, and mean 0 and variance 1 are kept.

    The input may have any shape, which is kept. Place the layer after nn.SELU at p = 0.05 … 0.1. The expectation of a
    single unit is E y = a · (1 − p) · x and not x. In eval mode the layer returns its input.

    Args:
        p: Drop probability, between 0 and 1.

    Raises:
        InvalidInput: p is out of range.

    References:
        Klambauer et al. 2017, arXiv 1706.02515, section "New dropout technique".
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        return alpha_dropout(x, self.p, self.training)
