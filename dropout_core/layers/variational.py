"""Variational dropout: Gaussian noise on weights, whose size is learned.

Each weight follows N(θ, α·θ²) with a learned α: one for each weight, for each output unit, or for the layer. Training
draws the pre-activations instead of the weights (local reparameterisation, Kingma et al. 2015, eq. 6):
y ~ N(x·θ, x²·(α·θ²)), independently for each row and unit, so that gradients have little noise. Add `kl()` / N to the
mean negative log likelihood. A Monte Carlo pass draws one network. Eval mode uses the weights θ. As a drop probability,
α = p / (1 − p).

References:
    Kingma, Salimans, Welling 2015, arXiv 1506.02557. Molchanov, Ashukha, Vetrov 2017, arXiv 1701.05369.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import capturing, checked_rank, checked_rate
from dropout_core.layers.connect import noisy_moments

Share = Literal["weight", "unit", "layer"]


def kl_of_log_alpha(log_alpha: Tensor) -> Tensor:
    """Return the KL divergence of N(θ, α·θ²) from the log-uniform prior, up to one constant; it tends to 0 as α grows.

    Args:
        log_alpha: log α, of any shape.

    Returns:
        Divergences in nats, of the same shape.

    References:
        Molchanov et al. 2017, eq. 14, a fit whose error is below 0.01 nats.
    """
    fitted = 0.63576 * torch.sigmoid(1.87320 + 1.48695 * log_alpha)
    return 0.63576 - fitted + 0.5 * F.softplus(-log_alpha)


def log_alpha_of(p: float) -> float:
    """Return log α with α = p / (1 − p).

    Args:
        p: Drop probability, above 0 and below 1.

    Returns:
        The logarithm.
    """
    p = checked_rate(p)
    if p in (0.0, 1.0):
        raise InvalidInput(f"p is {p}; a learned drop probability begins above 0 and below 1.")
    return math.log(p) - math.log1p(-p)


class _Variational(nn.Module, ABC):
    """What the layers below share: log α, its penalty, and the three ways to compute the layer."""

    weight: Tensor
    bias: Any
    log_alpha: nn.Parameter

    def _configure(self, p: float, share: Share) -> None:
        if share not in get_args(Share):
            raise InvalidInput(f"share is {share!r}; it is one of {', '.join(get_args(Share))}.")
        units = (self.weight.shape[0], *[1] * (self.weight.dim() - 1))
        shape = {"weight": self.weight.shape, "unit": units, "layer": (1,) * self.weight.dim()}[share]
        self.share = share
        self.log_alpha = nn.Parameter(self.weight.new_full(shape, log_alpha_of(p)))

    @property
    def p(self) -> Tensor:
        """The drop probabilities α / (1 + α), in the shape of log α; those near 1 mark weights to prune."""
        return self.log_alpha.detach().sigmoid()

    def kl(self) -> Tensor:
        """Return the KL divergence of all weights from their prior, in nats: a scalar, at least 0."""
        return kl_of_log_alpha(self.log_alpha).expand_as(self.weight).sum()

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the pre-activations of x (Kingma et al. 2015, eq. 6)."""
        variance = self.log_alpha.exp() * self.weight.square()
        return self._linear(x, self.weight, self.bias), self._linear(x.square(), variance, None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with noisy weights."""
        self._check(x)
        if not self.training:
            return self._linear(x, self.weight, self.bias)
        if capturing():
            noise = (0.5 * self.log_alpha).exp() * torch.randn_like(self.weight)
            return self._linear(x, self.weight * (1.0 + noise), self.bias)
        return noisy_moments(*self.moments(x))

    @abstractmethod
    def _check(self, x: Tensor) -> None:
        """Raise InvalidInput unless x has the shape of the layer."""

    @abstractmethod
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the layer with these weights."""

    def extra_repr(self) -> str:
        """Return the layer's own arguments, and what shares an α."""
        return f"{super().extra_repr()}, share={self.share}"


class VariationalLinear(_Variational, nn.Linear):
    """A linear layer with learned Gaussian noise on its weights. It accepts the weights of an nn.Linear.

    The shape changes from [B, *, in_features] to [B, *, out_features]. Place it in fully connected layers; start at
    p = 0.01 … 0.1 and let the KL penalty grow over the first epochs.

    Args:
        in_features: Number of input features.
        out_features: Number of output features.
        p: Initial drop probability, above 0 and below 1.
        bias: Whether the layer has a bias.
        share: What shares an α: "weight" (each has its own, for sparse networks), "unit" (one per output) or "layer".
        **factory: dtype and device, as in nn.Linear.

    Raises:
        InvalidInput: An argument is out of range, or the input does not fit.

    References:
        Kingma et al. 2015, Molchanov et al. 2017; see the module.
    """

    def __init__(
        self, in_features: int, out_features: int, p: float, bias: bool = True, share: Share = "weight", **factory: Any
    ) -> None:
        super().__init__(in_features, out_features, bias, **factory)
        self._configure(p, share)

    def _check(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[-1] != self.in_features:
            raise InvalidInput(f"the input has shape {list(x.shape)}; [B, *, {self.in_features}] is wanted.")

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class VariationalConv2d(_Variational, nn.Conv2d):
    """A convolution over [B, C, H, W] with learned Gaussian noise on its weights.

    It accepts the weights of an nn.Conv2d.

    Args:
        *args: Positional arguments of nn.Conv2d.
        p: Initial drop probability, above 0 and below 1.
        share: What shares an α, as in VariationalLinear.
        **arguments: Keyword arguments of nn.Conv2d.

    References:
        Kingma et al. 2015, Molchanov et al. 2017; see the module.
    """

    def __init__(self, *args: Any, p: float, share: Share = "weight", **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self._configure(p, share)

    def _check(self, x: Tensor) -> None:
        checked_rank(x, (4,), "[B, C, H, W]")

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = self._conv_forward(x, weight, bias)
        return y
