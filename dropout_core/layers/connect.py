"""Dropout of connections: a mask over weights.

With weights W, and m ~ Bernoulli(1 − p) for each of them, y = (W · m / (1 − p)) x + b, so that E y is the layer without
dropout. The bias is kept. In training a mask is drawn for each row or for the whole batch; in eval mode the weights
are their mean. A Monte Carlo pass draws one network (`monte_carlo="weights"`), or each pre-activation from the normal
law with its exact mean and variance ("moments", faster: passes are batched, but what rows share of a network is lost).

Source: Wan et al. 2013, "Regularization of neural networks using DropConnect" (there the weights are
divided by nothing in training, and multiplied by 1 − p at test).
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import Rate, capturing, checked_rank, checked_rate

Per = Literal["row", "batch"]
MonteCarlo = Literal["weights", "moments"]


def linear_by_row(x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each row through weights of its own: y_b = W_b x_b + bias.

    x: [B, *, I]. weights: [B, O, I]. Returns [B, *, O].
    """
    flat = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
    y = (flat @ weights.mT).reshape(*x.shape[:-1], weights.shape[1])
    return y if bias is None else y + bias


def noisy_moments(mean: Tensor, variance: Tensor) -> Tensor:
    """Normal draws with this mean and variance, of the same shape. No gradient reaches a variance of 0."""
    positive = variance > 0
    std = torch.where(positive, variance, 1.0).sqrt() * positive
    return mean + std * torch.randn_like(mean)


class _DropConnect(nn.Module, ABC):
    """What the layers below share: their options, and the weights of a draw for the whole batch."""

    p = Rate()
    weight: Tensor
    bias: Any

    def _configure(self, p: float, per: Per, monte_carlo: MonteCarlo) -> None:
        for name, value, known in (("per", per, get_args(Per)), ("monte_carlo", monte_carlo, get_args(MonteCarlo))):
            if value not in known:
                raise InvalidInput(f"{name} is {value!r}; it is one of {', '.join(known)}.")
        self.p, self.per, self.monte_carlo = p, per, monte_carlo

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the pre-activations over masks: W x + b and p / (1 − p) · W² x². p below 1.

        Source: Wan et al. 2013, in the inverted scale.
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
        """The layer under these weights."""

    @abstractmethod
    def _by_row(self, x: Tensor, weights: Tensor) -> Tensor:
        """The layer, each row under weights [B, *] of its own."""

    def extra_repr(self) -> str:
        """The layer's own arguments and those of the dropout."""
        return f"{super().extra_repr()}, p={self.p}, per={self.per}, monte_carlo={self.monte_carlo}"


class DropConnectLinear(_DropConnect, nn.Linear):
    """A linear layer that drops connections; takes the weights of an nn.Linear.

    Shape: [B, *, in_features] → [B, *, out_features]. per: "row" draws a mask for each row, as the paper does, in
    B · out · in numbers; "batch" draws one for all. Place it in a fully connected head, at 0.2 … 0.5.
    Source: Wan et al. 2013; see the module.
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
        """All rows in one convolution: the groups of a row are groups of their own."""
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
    """A convolution over [B, C, L] that drops connections; takes the weights of an nn.Conv1d, and its arguments.

    per: "row" draws a mask over the kernel for each row, "batch" one for all; along L the kernel is the same.
    Source: Wan et al. 2013; see the module.
    """

    def __init__(
        self, *args: Any, p: float, per: Per = "row", monte_carlo: MonteCarlo = "weights", **arguments: Any
    ) -> None:
        super().__init__(*args, **arguments)
        self._configure(p, per, monte_carlo)


class DropConnectConv2d(_DropConnectConv, nn.Conv2d):
    """A convolution over [B, C, H, W] that drops connections; otherwise as DropConnectConv1d."""

    def __init__(
        self, *args: Any, p: float, per: Per = "row", monte_carlo: MonteCarlo = "weights", **arguments: Any
    ) -> None:
        super().__init__(*args, **arguments)
        self._configure(p, per, monte_carlo)
