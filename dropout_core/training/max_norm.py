"""Constraints on weights, applied after the optimiser's step."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from dropout_core.errors import InvalidInput
from dropout_core.layers.selection import Layers, named_layers


@dataclass(frozen=True)
class MaxNorm:
    """Keeps the L2 norm of the weights that enter a unit at c or below: w ← w · c / ‖w‖ where ‖w‖ > c.

    Call it after each step of the optimiser, or `attach` it once:

        max_norm = MaxNorm(3.0)
        max_norm(model)

    The weights that enter a unit are, without biases,

    * in nn.Linear, nn.Bilinear and the projections of nn.MultiheadAttention, those of an output unit;
    * in a convolution, those of an output channel over its input channels and the kernel; in a transposed one too;
    * in nn.LSTM, nn.GRU, nn.RNN and their cells, those of a gate of a unit, separately for the input and the hidden
    state;

    and those of layers that inherit from these, such as this library's. Embeddings, normalisations and weights that
    are not trained stay as they are. Norms are computed in float32, or in float64 for such weights. A vector within c
    keeps every bit; one whose norm is NaN or infinite is left alone. What rounding leaves above c counts as c, so a
    second call changes nothing.

    Args:
        c: The bound. 3 or 4 is usual, with high learning rates and dropout at 0.5.

    Raises:
        InvalidInput: c is not finite and above 0.

    References:
        Srivastava et al. 2014, JMLR 15, section 5.1. Hinton et al. 2012, arXiv 1207.0580.
    """

    c: float

    def __post_init__(self) -> None:
        if not 0.0 < self.c < math.inf:
            raise InvalidInput(f"c is {self.c!r}; a finite number above 0 is wanted.")

    def __call__(self, layers: Layers) -> int:
        """Clip the weights of a network, or of several layers, in place.

        Args:
            layers: A network, a layer, or a list of either.

        Returns:
            The number of vectors that were too long.

        Raises:
            InvalidInput: There are no such weights, or one is computed from others (torch.nn.utils.parametrize), so
                that it cannot be written to.
        """
        return sum(int(count) for count in self._clip(layers))

    def attach(self, optimizer: Optimizer, layers: Layers) -> RemovableHandle:
        """Clip after every step of an optimiser, until `handle.remove()`.

        Args:
            optimizer: The optimiser.
            layers: A network, a layer, or a list of either.

        Returns:
            The handle.

        Raises:
            InvalidInput: As for a call.
        """
        kept = layers if isinstance(layers, nn.Module) else list(layers)
        _weights(kept)

        def clip(*_: Any) -> None:
            # The counts stay unread: an accelerator is not waited for.
            self._clip(kept)

        return optimizer.register_step_post_hook(clip)

    @torch.no_grad()
    def _clip(self, layers: Layers) -> list[Tensor]:
        return [_clip(*vectors, self.c) for vectors in _weights(layers)]


def _clip(vectors: Tensor, axes: tuple[int, ...], c: float) -> Tensor:
    """Scale down vectors longer than c along these axes, in place, and count them."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    norms = torch.linalg.vector_norm(vectors, dim=axes, keepdim=True, dtype=dtype)
    # Of the weights, and of a sum of up to a million squares.
    rounding = torch.finfo(vectors.dtype).eps + 64.0 * torch.finfo(dtype).eps
    too_long = (norms > c * (1.0 + rounding)) & norms.isfinite()
    vectors.mul_(torch.where(too_long, c / norms, 1.0))
    count: Tensor = too_long.sum()
    return count


def _weights(layers: Layers) -> list[tuple[Tensor, tuple[int, ...]]]:
    """Return the trained weights of layers as tensors to write to, with the axes along which a vector lies."""
    found = []
    for path, layer in named_layers(layers):
        for name in _names(layer):
            if name not in layer._parameters:
                raise InvalidInput(
                    f"{name} of {path!r} ({type(layer).__name__}) is computed from others; layers whose weights are "
                    "parameters are wanted: give those to clip."
                )
            weight = layer._parameters[name]
            if weight is not None and weight.requires_grad:
                found.append(_vectors(layer, weight))
    if not found:
        raise InvalidInput("there is no weight to clip; a linear, convolutional or recurrent layer is wanted.")
    return found


def _names(layer: nn.Module) -> list[str]:
    """Return the names of a module's own weights that enter units."""
    if isinstance(layer, nn.Linear | nn.Bilinear | _ConvNd):
        return ["weight"]
    if isinstance(layer, nn.RNNCellBase):
        return ["weight_ih", "weight_hh"]
    if isinstance(layer, nn.RNNBase):
        return [name for names in layer._all_weights for name in names if name.startswith("weight")]
    if isinstance(layer, nn.MultiheadAttention):
        return ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
    return []


def _vectors(layer: nn.Module, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a weight as a view, and the axes along which the vector of one unit lies."""
    if isinstance(layer, _ConvTransposeNd):
        # [I, O / groups, *]: a group of outputs reads its own part of the inputs.
        grouped = weight.unflatten(0, (layer.groups, -1))
        return grouped, (1, *range(3, grouped.dim()))
    return weight, tuple(range(1, weight.dim()))
