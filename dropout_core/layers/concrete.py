"""Dropout whose rate is learned."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import capturing, checked_rank, checked_rate
from dropout_core.layers.variational import log_alpha_of

_EDGE = 2.0**-24


def concrete_mask(noise: Tensor, p: Tensor, temperature: float) -> Tensor:
    """Return a relaxed keep mask 1 − z with z = σ((log p − log(1 − p) + log u − log(1 − u)) / t).

    Args:
        noise: u, uniform on (0, 1), of any shape.
        p: Drop probability, a scalar.
        temperature: t.

    Returns:
        The mask, in the shape of the noise.

    References:
        Gal, Hron, Kendall 2017, eq. 5.
    """
    kept: Tensor = torch.sigmoid((torch.logit(noise) + torch.logit(p)) / -temperature)
    return kept


def entropy(p: Tensor) -> Tensor:
    """Return −p·log p − (1 − p)·log(1 − p) in nats; 0 at p = 0 and 1.

    Args:
        p: Probabilities of any shape.

    Returns:
        Entropies of the same shape.
    """
    nats: Tensor = torch.special.entr(p) + torch.special.entr(1.0 - p)
    return nats


class ConcreteDropout(nn.Module):
    """Dropout of single units at a rate that gradient descent learns.

    The input has rows first and any shape, which is kept. In training a unit is multiplied by 1 − z, a concrete (soft)
    draw at the temperature, and divided by 1 − p. Monte Carlo passes draw exact Bernoulli masks at the learned p. Eval
    mode returns the input. Add `regularization(...)` to the loss: without it p falls to 0. Place one before every
    layer with weights, the first one too. The expectation of a concrete draw is close to 1 − p: at a temperature of
    0.1 and p = 0.2 it is 0.0016 less.

    Args:
        p: Initial rate, above 0 and below 1.
        temperature: Temperature of the concrete distribution.
        limit: The rate stays below it; 0.5 keeps it where more dropout means more uncertainty.

    Raises:
        InvalidInput: A value is out of range.

    References:
        Gal, Hron, Kendall 2017, arXiv 1705.07832.
    """

    def __init__(self, p: float = 0.1, temperature: float = 0.1, limit: float = 1.0) -> None:
        super().__init__()
        limit = checked_rate(limit, "limit")
        if not 0.0 < checked_rate(p) < limit:
            raise InvalidInput(f"p is {p}; a learned drop probability begins above 0 and below its limit, {limit}.")
        if not temperature > 0:
            raise InvalidInput(f"temperature is {temperature}; a number above 0 is wanted.")
        self.temperature, self.limit = temperature, limit
        self.logit = nn.Parameter(torch.tensor(log_alpha_of(p / limit)))

    @property
    def p(self) -> Tensor:
        """The current drop probability, a scalar between 0 and 1 through which gradients flow."""
        return (self.limit * torch.sigmoid(self.logit)).clamp(_EDGE, 1.0 - _EDGE)

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        shape = self._shape(x)
        if not self.training:
            return x
        if capturing():
            keep = (1.0 - self.p.double()).expand(shape)
            return x * (torch.bernoulli(keep) / keep).to(x.dtype)
        p = self.p.to(torch.promote_types(x.dtype, torch.float32))
        noise = torch.rand(shape, dtype=p.dtype, device=x.device).clamp(_EDGE, 1.0 - _EDGE)
        return x * (concrete_mask(noise, p, self.temperature) / (1.0 - p)).to(x.dtype)

    def regularization(
        self,
        weights: Iterable[Tensor],
        features: int,
        num_examples: int,
        lengthscale: float = 1e-2,
        tau: float | None = None,
    ) -> Tensor:
        """Return the penalty to add to the mean loss of an example.

        With L = l² Σ W² / (2 (1 − p)) − features · H(p), the penalty is L / N for a loss that is a negative log
        likelihood in nats, and 2 L / (τ N) for a squared error with model precision τ.

        Args:
            weights: Weights of the layer that reads the dropped units.
            features: Number of units that are drawn for: the input features of that layer, or its input channels after
                ConcreteSpatialDropout.
            num_examples: Size N of the training set.
            lengthscale: Length scale l of the prior of the weights.
            tau: Model precision τ for a squared error; None for a likelihood.

        Returns:
            A scalar.

        References:
            Gal, Hron, Kendall 2017, eq. 3 and 4. The weights here are those of the inverted form, W = (1 − p) M.
        """
        squares = sum((weight.square().sum() for weight in weights), start=self.logit.new_zeros(()))
        p = self.p
        divergence = lengthscale**2 * squares / (2.0 * (1.0 - p)) - features * entropy(p)
        return divergence / num_examples if tau is None else 2.0 * divergence / (tau * num_examples)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape)

    def extra_repr(self) -> str:
        """Return the current rate and the options."""
        p = "?" if self.logit.is_meta else f"{self.p.item():.4f}"
        return f"p={p}, temperature={self.temperature}, limit={self.limit}"


class ConcreteSpatialDropout(ConcreteDropout):
    """Dropout of whole channels of [B, C, *] at a learned rate; otherwise like ConcreteDropout.

    The input is [B, C, L], [B, C, H, W] or [B, C, D, H, W], and keeps its shape. Place the layer before convolutions.

    Args:
        p: Initial rate, above 0 and below 1.
        temperature: Temperature of the concrete distribution.
        limit: The rate stays below it.

    References:
        Gal, Hron, Kendall 2017, arXiv 1705.07832.
    """

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        checked_rank(x, (3, 4, 5), "[B, C, L], [B, C, H, W] or [B, C, D, H, W]")
        return (*x.shape[:2], *[1] * (x.dim() - 2))
