"""Parts that the layers share: checked drop probabilities, masks, and the law of Monte Carlo passes.

Training and Monte Carlo passes may follow different laws. While the engine captures a network, `capturing()` is true,
and a layer expresses its Monte Carlo law (noise shared by all rows of a pass) through one of these draws:

* `F.dropout(x, p)`, `mask`: with the noise off, the input;
* `kept`: 0 or 1; with the noise off, 1;
* `unscaled_mask`, `torch.bernoulli(probabilities)`: 0 or 1; with the noise off, the probability of 1;
* `torch.randn_like(x)`: with the noise off, 0.

With the noise off, a captured network must return what it returns in eval mode.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.errors import InvalidInput

Per = Literal["row", "batch"]


class Rate:
    """A drop probability as an attribute of a layer, checked whenever it is set.

    Args:
        below_one: Whether 1 is refused.
    """

    def __init__(self, below_one: bool = False) -> None:
        self._below_one = below_one

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: nn.Module | None, _: type) -> float:
        if layer is None:
            raise AttributeError(f"{self._name} belongs to a layer, not to its class")
        value: float = vars(layer)[f"_{self._name}"]
        return value

    def __set__(self, layer: nn.Module, value: float) -> None:
        vars(layer)[f"_{self._name}"] = checked_rate(value, self._name, self._below_one)


class RateLayer(nn.Module):
    """A layer with a drop probability, which may be set at any time.

    Args:
        p: Drop probability, between 0 and 1.

    Raises:
        InvalidInput: p is not a number between 0 and 1.
    """

    p = Rate()

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        """Return the drop probability, for `print(model)`."""
        return f"p={self.p}"


def checked_rate(p: float, name: str = "p", below_one: bool = False) -> float:
    """Return a drop probability as a float.

    Args:
        p: The probability.
        name: Its name in messages.
        below_one: Whether 1 is refused.

    Returns:
        The probability.

    Raises:
        InvalidInput: p is not a number between 0 and 1, or it is 1 and must be below.
    """
    number = isinstance(p, Real) and not isinstance(p, bool)
    if not number or not 0.0 <= p <= 1.0 or (below_one and p == 1.0):
        allowed = "at least 0 and below 1" if below_one else "between 0 and 1"
        raise InvalidInput(f"{name} is {p!r}; a drop probability is a number {allowed}.")
    return float(p)


def checked_rank(x: Tensor, ranks: Sequence[int], wanted: str) -> None:
    """Check the number of axes of an input.

    Args:
        x: The input.
        ranks: Numbers of axes that are allowed.
        wanted: The allowed shapes in words, such as "[B, C, H, W]".

    Raises:
        InvalidInput: x has another number of axes.
    """
    if x.dim() not in ranks:
        raise InvalidInput(f"the input has shape {list(x.shape)}; {wanted} is wanted.")


def capturing() -> bool:
    """Return whether the network is being captured for Monte Carlo passes."""
    return torch.compiler.is_exporting()


def mask(x: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Draw a keep mask divided by 1 − p: 0 where dropped, 1 / (1 − p) where kept.

    Args:
        x: Tensor whose dtype and device the mask has.
        shape: Shape of the mask.
        p: Drop probability.

    Returns:
        The mask.
    """
    return F.dropout(x.new_ones(shape), p, training=True)


def kept(x: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Draw a boolean keep mask.

    Args:
        x: Tensor whose device the mask has.
        shape: Shape of the mask.
        p: Drop probability.

    Returns:
        bool, False where dropped.
    """
    if capturing():
        return F.dropout(torch.ones(shape, device=x.device), p, training=True) != 0
    return torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(1.0 - p)


def unscaled_mask(x: Tensor, shape: Sequence[int], keep: float) -> Tensor:
    """Draw a keep mask without a scale: 0 where dropped, 1 where kept; with the noise off, `keep`.

    Args:
        x: Tensor whose device the mask has.
        shape: Shape of the mask.
        keep: Probability of 1.

    Returns:
        bool; float64 while capturing.
    """
    if capturing():
        return torch.bernoulli(torch.full(shape, keep, dtype=torch.float64, device=x.device))
    return torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(keep)
