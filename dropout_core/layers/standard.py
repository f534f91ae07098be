"""Dropout of single units: the standard form, and the one that keeps SELU's mean and variance."""

import torch.nn.functional as F
from torch import Tensor

from dropout_core.layers.base import RateLayer


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x · m / (1 − p), with m ~ Bernoulli(1 − p) for each unit. Any shape."""
    return F.dropout(x, p, training)


class Dropout(RateLayer):
    """Inverted dropout: in training each unit is 0 with probability p and divided by 1 − p otherwise; x in eval mode.

    Shape: any, unchanged. Place it between the fully connected layers of a head, after the activation, at 0.1 … 0.5.
    On the maps of a convolution use SpatialDropout or DropBlock: neighbouring pixels say the same.
    Source: Hinton et al. 2012, arXiv 1207.0580; Srivastava et al. 2014, JMLR 15, section 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        return dropout(x, self.p, self.training)


def alpha_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """a · (x · m + α' · (1 − m)) + b, with m ~ Bernoulli(1 − p) for each unit. Any shape.

    α' = −1.7581 is SELU's floor, a = ((1 − p)(1 + p·α'²))^(−1/2), b = −a·p·α': of an x with mean 0 and variance 1 both
    are kept. At p = 1 the output is 0.
    """
    return F.alpha_dropout(x, p, training)


class AlphaDropout(RateLayer):
    """Dropout for self-normalising networks: dropped units go to SELU's floor, and mean 0 and variance 1 are kept.

    Shape: any, unchanged. Place it after nn.SELU, at 0.05 … 0.1. The expectation of a single unit is not its value
    but E y = a · (1 − p) · x. In eval mode x.
    Source: Klambauer et al. 2017, arXiv 1706.02515, section "New dropout technique".
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        return alpha_dropout(x, self.p, self.training)
