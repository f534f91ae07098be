"""What the layers share: a drop probability that is checked, masks, and the moment at which a network is captured.

Training and Monte Carlo passes may follow different laws. While the engine captures a network, `capturing()` is true,
and a layer writes down its Monte Carlo law, noise shared by all rows of a pass, through one of these draws:

* `F.dropout(x, p)`, `mask`: with the noise off, the input;
* `kept`: 0 or 1; with the noise off, 1;
* `unscaled_mask`, `torch.bernoulli(probabilities)`: 0 or 1; with the noise off, the probability of 1;
* `torch.randn_like(x)`: with the noise off, 0.

With the noise off a captured network must answer as in eval mode.
"""

from collections.abc import Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout_core.errors import InvalidInput


class Rate:
    """A drop probability among the attributes of a layer, checked whenever it is set."""

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
    """A layer with a drop probability `p`, which may be set at any time.

    Raises InvalidInput for a p outside 0 … 1.
    """

    p = Rate()

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        """The drop probability, as print(model) shows it."""
        return f"p={self.p}"


def checked_rate(p: float, name: str = "p", below_one: bool = False) -> float:
    """The drop probability as a float. Raises InvalidInput for one outside 0 … 1, or of 1 where that is said."""
    number = isinstance(p, Real) and not isinstance(p, bool)
    if not number or not 0.0 <= p <= 1.0 or (below_one and p == 1.0):
        allowed = "at least 0 and below 1" if below_one else "between 0 and 1"
        raise InvalidInput(f"{name} is {p!r}; a drop probability is a number {allowed}.")
    return float(p)


def checked_rank(x: Tensor, ranks: Sequence[int], wanted: str) -> None:
    """Raise InvalidInput unless x has one of these numbers of axes; `wanted` names them, such as [B, C, H, W]."""
    if x.dim() not in ranks:
        raise InvalidInput(f"the input has shape {list(x.shape)}; {wanted} is wanted.")


def capturing() -> bool:
    """Whether the network is being captured for Monte Carlo passes."""
    return torch.compiler.is_exporting()


def mask(x: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """A keep mask over 1 − p, of x's type and device: 0 where dropped, 1 / (1 − p) where kept."""
    return F.dropout(x.new_ones(shape), p, training=True)


def kept(x: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Booleans on x's device: False where dropped."""
    if capturing():
        return F.dropout(torch.ones(shape, device=x.device), p, training=True) != 0
    return torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(1.0 - p)


def unscaled_mask(x: Tensor, shape: Sequence[int], keep: float) -> Tensor:
    """0 where dropped, 1 where kept, on x's device; with the noise off, keep. Booleans; float64 while capturing."""
    if capturing():
        return torch.bernoulli(torch.full(shape, keep, dtype=torch.float64, device=x.device))
    return torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(keep)
