"""Dropout of connections: a mask over weights.

With weights W and m ~ Bernoulli(1 − p) for each of them, y = (W · m / (1 − p)) x + b, so that E y is the layer without
dropout. The bias is kept. Training draws a mask for each row or for the whole batch; eval mode uses the mean weights. A
Monte Carlo pass draws one network (`monte_carlo="weights"`), or each pre-activation from the normal law with its exact
mean and variance (`"moments"`), which is faster, because passes are batched, but loses what rows share of a network.

References:
    Wan et al. 2013, "Regularization of neural networks using DropConnect" (there nothing divides the weights in
    training, and 1 − p multiplies them at test).
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import Per, Rate, capturing, checked_rank, checked_rate

MonteCarlo = Literal["weights", "moments"]


def linear_by_row(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear map with separate weights for each row: y_b = W_b x_b + bias.

    Args:
        x: Input [B, *, I].
        weights: Weights [B, O, I].
        bias: Bias [O], if any.

    Returns:
        [B, *, O].
    """
    flat = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
    y = (flat @ weights.mT).reshape(*x.shape[:-1], weights.shape[1])
    return y if bias is None else y + bias


def noisy_moments(mean: Tensor, variance: Tensor) -> Tensor:
    """Draw from normal laws. No gradient flows into a variance of 0.

    Args:
        mean: Means, of any shape.
        variance: Variances of the same shape.

    Returns:
        Draws of the same shape.
    """
    positive = variance > 0
    std = torch.where(positive, variance, 1.0).sqrt() * positive
    return mean + std * torch.randn_like(mean)


class _DropConnect(nn.Module, ABC):
    """Options that the layers below share, and the weights of one draw for the whole batch."""

    p = Rate()
    weight: Tensor
    bias: Any

    def _configure(self, p: float, per: Per, monte_carlo: MonteCarlo) -> None:
        for name, value, known in (("per", per, get_args(Per)), ("monte_carlo", monte_carlo, get_args(MonteCarlo))):
            if value not in known:
                raise InvalidInput(f"{name} is {value!r}; it is one of {', '.join(known)}.")
        self.p, self.per, self.monte_carlo = p, per, monte_carlo

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean W x + b and the variance p / (1 − p) · W² x² of the pre-activations over masks.

        p must be below 1.
        """
        p = checked_rate(self.p, below_one=True)
        variance = p / (1.0 - p) * self._linear(x.square(), self.weight.square(), None)
        return self._linear(x, self.weight, self.bias), variance

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with dropped connections."""
        self._check(x)
        if not self.training or self.p == 0:
            return self._linear(x, self.weight, self.bias)
        if capturing() and self.monte_carlo == "moments":
            return noisy_moments(*self.moments(x))
        if self.per == "batch" or capturing():
            return self._linear(x, F.dropout(self.weight, self.p, training=True), self.bias)
        return self._by_row(x, F.dropout(self.weight.expand(len(x), *self.weight.shape), self.p, training=True))

    @abstractmethod
    def _check(self, x: Tensor) -> None:
        """Raise InvalidInput unless x has the shape of the layer."""

    @abstractmethod
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the layer with these weights."""

    @abstractmethod
    def _by_row(self, x: Tensor, weights: Tensor) -> Tensor:
        """Apply the layer with separate weights [B, *] for each row."""

    def extra_repr(self) -> str:
        """Return the layer's own arguments and those of the dropout."""
        return f"{super().extra_repr()}, p={self.p}, per={self.per}, monte_carlo={self.monte_carlo}"


class DropConnectLinear(_DropConnect, nn.Linear):
    """A linear layer that drops connections. It accepts the weights of an nn.Linear.

    The shape changes from [B, *, in_features] to [B, *, out_features]. Place it in a fully connected head at p = 0.2 …
    0.5.

    Args:
        in_features: Number of input features.
        out_features: Number of output features.
        p: Drop probability of a weight, between 0 and 1.
        bias: Whether the layer has a bias.
        per: "row" draws a mask for each row, as the paper does, which takes B · out · in numbers; "batch" draws one
            for all.
        monte_carlo: How passes draw: "weights" or "moments" (see the module).
        **factory: dtype and device, as in nn.Linear.

    Raises:
        InvalidInput: An argument is out of range, or the input does not fit.

    References:
        Wan et al. 2013; see the module.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        p: float,
        bias: bool = True,
        per: Per = "row",
        monte_carlo: MonteCarlo = "weights",
        **factory: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, **factory)
        self._configure(p, per, monte_carlo)

    def _check(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[-1] != self.in_features:
            raise InvalidInput(f"the input has shape {list(x.shape)}; [B, *, {self.in_features}] is wanted.")

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _by_row(self, x: Tensor, weights: Tensor) -> Tensor:
        return linear_by_row(x, weights, self.bias)


class _DropConnectConv(_DropConnect, _ConvNd):
    """A convolution that drops connections."""

    def _check(self, x: Tensor) -> None:
        rank = self.weight.dim()
        checked_rank(x, (rank,), "[B, C, L]" if rank == 3 else "[B, C, H, W]")

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._convolve(x, weight, bias, self.groups)

    def _by_row(self, x: Tensor, weights: Tensor) -> Tensor:
        """Compute all rows in one convolution, in which the groups of each row are separate groups."""
        rows = len(x)
        if rows == 0:
            return self._linear(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.repeat(rows)
        beside = x.reshape(1, -1, *x.shape[2:])
        y = self._convolve(beside, weights.flatten(0, 1), bias, self.groups * rows)
        return y.reshape(rows, -1, *y.shape[2:])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        convolve: Any = F.conv1d if weight.dim() == 3 else F.conv2d
        y: Tensor = convolve(x, weight, bias, self.stride, padding, self.dilation, groups)
        return y


class DropConnectConv1d(_DropConnectConv, nn.Conv1d):
    """A convolution over [B, C, L] that drops connections. It accepts the weights and arguments of an nn.Conv1d.

    Args:
        *args: Positional arguments of nn.Conv1d.
        p: Drop probability of a weight, between 0 and 1.
        per: "row" draws a mask over the kernel for each row, "batch" one for all. Along L the kernel is the same.
        monte_carlo: How passes draw: "weights" or "moments" (see the module).
        **arguments: Keyword arguments of nn.Conv1d.

    Raises:
        InvalidInput: An argument is out of range, or the input does not fit.

    References:
        Wan et al. 2013; see the module.
    """

    def __init__(
        self, *args: Any, p: float, per: Per = "row", monte_carlo: MonteCarlo = "weights", **arguments: Any
    ) -> None:
        super().__init__(*args, **arguments)
        self._configure(p, per, monte_carlo)


class DropConnectConv2d(_DropConnectConv, nn.Conv2d):
    """A convolution over [B, C, H, W] that drops connections; otherwise like DropConnectConv1d.

    Args:
        *args: Positional arguments of nn.Conv2d.
        p: Drop probability of a weight, between 0 and 1.
        per: As in DropConnectConv1d.
        monte_carlo: As in DropConnectConv1d.
        **arguments: Keyword arguments of nn.Conv2d.
    """

    def __init__(
        self, *args: Any, p: float, per: Per = "row", monte_carlo: MonteCarlo = "weights", **arguments: Any
    ) -> None:
        super().__init__(*args, **arguments)
        self._configure(p, per, monte_carlo)
