"""Co-adaptation: how much a network misses a single unit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dropout_core.errors import InvalidInput


@torch.no_grad()
def co_adaptation(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    inputs: Any,
    targets: Any,
    layer: nn.Module,
    axis: int = 1,
) -> Tensor:
    """The rise of the loss when each unit of a layer's output is set to 0, one at a time: [C], in the loss's unit.

    loss(model with unit i removed) − loss(model), in eval mode, on model(inputs) and targets. Units that cannot do
    without each other have high rises; those that dropout made spread what they know have low ones. Its mean is one
    number for the layer; compare networks at about the same loss. layer: one of model.modules(). axis: of its output,
    along which the units lie: 1 for [B, C] and [B, C, H, W], 2 for the features of [B, L, C]. It runs the model
    C + 1 times; modes, weights and gradients are left as they were.

    It sees one unit at a time: of two units that say the same, either can go. Raises InvalidInput for a layer that is
    not part of the model, that does not run, or whose output has no such axis.
    Source: the idea of co-adaptation is Hinton et al. 2012, arXiv 1207.0580; removing single units to measure how a
    network depends on them, Morcos et al. 2018, arXiv 1803.06959.
    """
    if not any(part is layer for part in model.modules()):
        raise InvalidInput(f"the layer {layer} is not part of the model; one of model.modules() is wanted.")
    modes = [(part, part.training) for part in model.modules()]
    removal = _Removal(axis)
    hook = layer.register_forward_hook(removal)
    try:
        model.eval()
        whole = loss(model(inputs), targets)
        if removal.size is None:
            raise InvalidInput("the layer does not run in the model's forward; one that does is wanted.")
        rises = torch.zeros(removal.size, dtype=whole.dtype, device=whole.device)
        for unit in range(removal.size):
            removal.unit = unit
            rises[unit] = loss(model(inputs), targets) - whole
        return rises
    finally:
        hook.remove()
        for part, training in modes:
            part.training = training


class _Removal:
    """A forward hook that sets one unit of an output to 0, or, before one is named, counts the units."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.size: int | None = None
        self.unit: int | None = None

    def __call__(self, _layer: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not -output.dim() <= self.axis < output.dim():
            came = f"shape {list(output.shape)}" if isinstance(output, Tensor) else f"type {type(output).__name__}"
            raise InvalidInput(f"the layer's output has {came}; a tensor with an axis {self.axis} is wanted.")
        if self.unit is None:
            self.size = output.shape[self.axis]
            return output
        return output.index_fill(self.axis, torch.tensor([self.unit], device=output.device), 0)
