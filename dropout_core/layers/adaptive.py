"""Standout: units with a low pre-activation are dropped more often."""

import math

import torch
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import capturing


def adaptive_dropout(z: Tensor, activated: Tensor, alpha: float, beta: float, training: bool = True) -> Tensor:
    """Return f(z) · m with m ~ Bernoulli(σ(α·z + β)) for each unit, or f(z) · σ(α·z + β) when not training.

    In training, gradients flow through f(z) of the kept units; otherwise through both factors.

    Args:
        z: Pre-activations W x + b, of any shape.
        activated: f(z), of the same shape.
        alpha: Slope α of the keep probability.
        beta: Offset β of the keep probability.
        training: Whether to drop.

    Returns:
        A tensor of the same shape.
    """
    keep = torch.sigmoid(alpha * z + beta)
    if not training:
        return activated * keep
    if capturing():
        return activated * torch.bernoulli(keep)
    return activated * (torch.rand_like(keep, dtype=torch.float32) < keep.detach())


class AdaptiveDropout(nn.Module):
    """An activation whose units are kept with probability σ(α·z + β), where z is its input: standout.

    The input may have any shape, which is kept. z is the pre-activation of the layer before it, such as nn.Linear. α >
    0 keeps strong units; α = 0 is dropout at σ(−β), unscaled. Eval mode returns the expectation over masks,
    f(z) · σ(α·z + β). The paper's belief network has its own weights; here they are tied to the layer's, as the paper
    advises. Place the layer in fully connected layers, starting with β = 0 and α = 1.

    Args:
        activation: The nonlinearity f.
        alpha: Slope α of the keep probability.
        beta: Offset β of the keep probability.

    Raises:
        InvalidInput: α or β is not finite.

    References:
        Ba, Frey 2013, "Adaptive dropout for training deep neural networks".
    """

    def __init__(self, activation: nn.Module, alpha: float = 1.0, beta: float = 0.0) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not math.isfinite(value):
                raise InvalidInput(f"{name} is {value}; a finite number is wanted.")
        self.activation, self.alpha, self.beta = activation, alpha, beta

    def forward(self, z: Tensor) -> Tensor:
        """Activate z and drop units of it."""
        return adaptive_dropout(z, self.activation(z), self.alpha, self.beta, self.training)

    def extra_repr(self) -> str:
        """Return the slope and the offset of the keep probability."""
        return f"alpha={self.alpha}, beta={self.beta}"
