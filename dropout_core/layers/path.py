"""Dropout of the branches of a residual network: stochastic depth."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import Per, RateLayer, capturing, checked_rate, mask, unscaled_mask

DepthForm = Literal["linspace", "huang"]


def drop_path(x: Tensor, p: float, training: bool = True, per: Per = "row", classic: bool = False) -> Tensor:
    """Return x · m / (1 − p) with one m ~ Bernoulli(1 − p) for each row of a branch's output, or for the batch.

    Args:
        x: Output of a branch, [B, *].
        p: Drop probability.
        training: Whether to drop.
        per: "row" draws for each row, "batch" once.
        classic: Whether to use the paper's scale: x · m in training, and x · (1 − p) otherwise.

    Returns:
        A tensor of the same shape.

    Raises:
        InvalidInput: x has no axis of rows.
    """
    if x.dim() == 0:
        raise InvalidInput("the input has shape []; [B, *] is wanted.")
    if p == 0:
        return x
    if not training:
        return x * (1.0 - p) if classic else x
    rows = 1 if per == "batch" and not capturing() else x.shape[0]
    shape = (rows, *[1] * (x.dim() - 1))
    return x * (unscaled_mask(x, shape, 1.0 - p).to(x.dtype) if classic else mask(x, shape, p))


class DropPath(RateLayer):
    """Drops the output of a residual branch as a whole: x + DropPath(p)(branch(x)).

    The input has the shape [B, *], which is kept. Place the layer on every branch of a residual network or
    transformer, just before the addition, at rates that grow with depth (`linear_depth_rates`), up to 0.1 in a small
    network and 0.5 in a very deep one. It computes the branch that it drops; StochasticDepth does not have to.

    Args:
        p: Drop probability of the branch, between 0 and 1.
        per: "row" draws for each row; "batch" draws once for all rows, as the paper does. A Monte Carlo pass draws
            once for all its rows in both cases.
        classic: Whether to use the paper's scale: no factor in training and 1 − p in eval mode. Otherwise the factor is
            1 / (1 − p) in training and none in eval mode.

    Raises:
        InvalidInput: p is out of range, or `per` is unknown.

    References:
        Huang et al. 2016, arXiv 1603.09382, sections 3 and 3.1. For each row: Larsson et al. 2017, arXiv 1605.07648,
        in the scale of Srivastava's inverted dropout.
    """

    def __init__(self, p: float, per: Per = "row", classic: bool = False) -> None:
        super().__init__(p)
        if per not in get_args(Per):
            raise InvalidInput(f"per is {per!r}; it is one of {', '.join(get_args(Per))}.")
        self.per, self.classic = per, classic

    def forward(self, x: Tensor) -> Tensor:
        """Drop the branch whose output is x."""
        return drop_path(x, self.p, self.training, self.per, self.classic)

    def extra_repr(self) -> str:
        """Return the drop probability, its unit and the scale."""
        return f"p={self.p}, per={self.per}, classic={self.classic}"


class StochasticDepth(DropPath):
    """A residual block x + branch(x) whose branch is dropped as a whole.

    The input has the shape [B, *], and the branch must keep it. With `per="batch"` the draw comes first, and a dropped
    branch is not computed in training: at p = 0.5 this saves half of the branches' training time, and their batch
    statistics come from the batches they processed. With `per="row"` the branch is computed for all rows. At p = 1 it
    is never computed in training.

    Args:
        branch: The residual branch.
        p: Drop probability of the branch, between 0 and 1.
        per: As in DropPath.
        classic: As in DropPath.

    Raises:
        InvalidInput: An argument is out of range, or the branch changes the shape.

    References:
        Huang et al. 2016, arXiv 1603.09382, eq. 2 (there with a ReLU after the sum).
    """

    def __init__(self, branch: nn.Module, p: float, per: Per = "row", classic: bool = False) -> None:
        super().__init__(p, per, classic)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to x, or leave it out."""
        if not self.training or capturing():
            return x + drop_path(self._branched(x), self.p, self.training, self.per, self.classic)
        if self.p == 1:
            return x
        if self.per == "row":
            return x + drop_path(self._branched(x), self.p, True, self.per, self.classic)
        # Drawn on the CPU, so that no accelerator is waited for.
        if torch.rand((), dtype=torch.float64, device="cpu") < self.p:
            return x
        y = self._branched(x)
        return x + (y if self.classic else y / (1.0 - self.p))

    def _branched(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        if y.shape != x.shape:
            raise InvalidInput(f"the branch's output has shape {list(y.shape)}; {list(x.shape)}, as x, is wanted.")
        return y


def linear_depth_rates(num_blocks: int, last: float, form: DepthForm = "linspace") -> list[float]:
    """Return drop probabilities that grow linearly with depth, for blocks 1 … L.

    Args:
        num_blocks: Number of blocks L.
        last: Drop probability of the last block.
        form: "linspace" goes from 0 to `last` in equal steps, last · (l − 1) / (L − 1), as vision transformers do, so
            that the first block is never dropped (a single block has 0). "huang" is last · l / L: the steps start at
            the input, which is block 0, and the first block is dropped too. Huang et al. use last = 0.5.

    Returns:
        One probability per block.

    Raises:
        InvalidInput: The number of blocks is below 1, the rate is outside 0 … 1, or the form is unknown.

    References:
        Huang et al. 2016, arXiv 1603.09382, eq. 4, where p_l is 1 − the rate returned here.
    """
    last = checked_rate(last, "last")
    if not isinstance(num_blocks, int) or isinstance(num_blocks, bool) or num_blocks < 1:
        raise InvalidInput(f"num_blocks is {num_blocks!r}; a whole number of at least 1 is wanted.")
    if form == "huang":
        return [last * (block / num_blocks) for block in range(1, num_blocks + 1)]
    if form == "linspace":
        return [last * (block / max(num_blocks - 1, 1)) for block in range(num_blocks)]
    raise InvalidInput(f"form is {form!r}; it is one of {', '.join(get_args(DepthForm))}.")
