"""The ensemble that dropout samples from: every mask, how probable it is, and what the masks say together."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import checked_rate

_MOST_UNITS = 20
_MASKS_AT_A_TIME = 1024


def num_subnetworks(num_units: int, num_connections: int = 0) -> int:
    """2^(n + |W|): the masks of a network whose n units and |W| connections may each be dropped.

    Dropout of units alone has 2^n, DropConnect alone 2^|W|. These are masks: two of them may make the same function,
    as when all units of a layer are dropped and it no longer matters which of the layer below are. The number is
    exact, and has one bit for each unit and connection. Raises InvalidInput for a negative number.
    Source: Srivastava et al. 2014, JMLR 15, section 1; Wan et al. 2013, section 3.
    """
    for name, value in (("num_units", num_units), ("num_connections", num_connections)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidInput(f"{name} is {value!r}; a whole number of at least 0 is wanted.")
    return 1 << num_units + num_connections


def subnetworks(num_units: int, p: float) -> tuple[Tensor, Tensor]:
    """All masks over n = num_units units, bool [2^n, n], True where kept, and their probabilities, float64 [2^n].

    P(m) = p^(dropped) · (1 − p)^(kept). For expectations that are to be exact: Σ P(m) f(m). Mask number i keeps unit j
    where bit j of i is 1. Raises InvalidInput for more than 20 units.
    """
    p = checked_rate(p)
    if num_subnetworks(num_units) > 1 << _MOST_UNITS:
        raise InvalidInput(f"{num_units} units have 2^{num_units} masks; at most {_MOST_UNITS} units are wanted.")
    masks = torch.arange(1 << num_units).unsqueeze(1) >> torch.arange(num_units) & 1 == 1
    kept = masks.sum(1, dtype=torch.float64)
    return masks, p ** (num_units - kept) * (1.0 - p) ** kept


def geometric_mean_of_subnetworks(network: Callable[[Tensor], Tensor], x: Tensor, p: float) -> Tensor:
    """The normalised geometric mean of softmax(network(x · m / (1 − p))) over all masks m, as log-probabilities [B, K].

    log softmax(Σ_m P(m) log softmax(network(x · m / (1 − p)))), by enumeration. network: [b, C] → logits [b, K], a
    function of each row alone. x: [B, C], up to 20 units; p below 1, float64 where it is to be exact.

    For one softmax layer, network(x) = W x + b, it is log_softmax(W x + b), exactly and at any p: log softmax is the
    logits less a number that is the same for all classes, and the mean of the logits is W x + b. Hence one pass in eval
    mode (weight scaling) stands for 2^C networks. With a nonlinear layer behind the dropout it only comes near: the
    difference to log_softmax(network(x)) is the error of weight scaling.
    Source: Hinton et al. 2012, arXiv 1207.0580; Warde-Farley et al. 2013, arXiv 1312.6197, measure how near.
    """
    if x.dim() != 2:
        raise InvalidInput(f"the input has shape {list(x.shape)}; [B, C] is wanted.")
    total = x.new_zeros(())
    for factors, probabilities in factors_of_subnetworks(x, p):
        logits = network((factors.unsqueeze(1) * x).flatten(0, 1)).unflatten(0, (len(factors), len(x)))
        # Not yet their log softmax: what it takes away is the same for all classes, and goes at the end.
        total = total + torch.tensordot(probabilities, logits, dims=1)
    return total.log_softmax(-1)


def factors_of_subnetworks(x: Tensor, p: float) -> Iterator[tuple[Tensor, Tensor]]:
    """All m / (1 − p) over the units of x [B, C], some at a time: [n, C], and their probabilities [n], of x's type."""
    p = checked_rate(p, below_one=True)
    masks, probabilities = subnetworks(x.shape[1], p)
    factors = masks.to(x) / (1.0 - p)
    return zip(factors.split(_MASKS_AT_A_TIME), probabilities.to(x).split(_MASKS_AT_A_TIME), strict=True)
