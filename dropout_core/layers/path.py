"""Dropout of the branches of a residual network: stochastic depth."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, capturing, checked_rate, mask, unscaled_mask

Per = Literal["row", "batch"]
Form = Literal["linspace", "huang"]


def drop_path(x: Tensor, p: float, training: bool = True, per: Per = "row", classic: bool = False) -> Tensor:
    """x · m / (1 − p), with one m ~ Bernoulli(1 − p) for each row of a branch's output x [B, *], or for the batch.

    classic: x · m, and x · (1 − p) when not training.
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

    Shape: [B, *], unchanged. per: "row" draws for each row, "batch" once for all, as the paper does; in Monte Carlo
    passes a pass draws once for all its rows, either way. classic: the paper's scale, nothing in training and × (1 − p)
    in eval mode; otherwise ÷ (1 − p) in training and nothing in eval mode. Place it on every branch of a residual
    network or transformer, just before the addition, at rates that grow with depth (linear_depth_rates) up to 0.1 in a
    small net and 0.5 in a very deep one. It computes the branch it drops; StochasticDepth need not.
    Source: Huang et al. 2016, arXiv 1603.09382, sections 3 and 3.1; for each row: Larsson et al. 2017,
    arXiv 1605.07648, in the scale of Srivastava's inverted dropout.
    """

    def __init__(self, p: float, per: Per = "row", classic: bool = False) -> None:
        super().__init__(p)
        if per not in get_args(Per):
            raise InvalidInput(f"per is {per!r}; it is one of {', '.join(get_args(Per))}.")
        self.per, self.classic = per, classic

    def forward(self, x: Tensor) -> Tensor:
        """Drop the branch whose output x is."""
        return drop_path(x, self.p, self.training, self.per, self.classic)

    def extra_repr(self) -> str:
        """The drop probability, for what it is drawn, and the scale."""
        return f"p={self.p}, per={self.per}, classic={self.classic}"


class StochasticDepth(DropPath):
    """A residual block x + branch(x) whose branch is dropped as a whole.

    Shape: [B, *], unchanged; the branch keeps the shape of its input. per: with "batch" the draw comes first, and in
    training a dropped branch is not computed: at p = 0.5 half of the training time of the branches is saved, and their
    batch statistics are those of the batches they saw. With "row" the branch is computed for all rows. At p = 1 it is
    never computed in training. The rest is as in DropPath. Raises InvalidInput for a branch that changes the shape.
    Source: Huang et al. 2016, arXiv 1603.09382, eq. 2 (there with a ReLU after the sum).
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


def linear_depth_rates(num_blocks: int, last: float, form: Form = "linspace") -> list[float]:
    """Drop probabilities for blocks 1 … L = num_blocks that grow linearly with depth, up to `last`.

    form: "linspace" goes from 0 to last in equal steps, last · (l − 1) / (L − 1), so that the first block is never
    dropped (a single block: 0), as vision transformers do. "huang" is last · l / L: the steps start at the input, which
    is block 0, and the first block already drops. Huang et al. use last = 0.5.
    Raises InvalidInput for a number of blocks below 1, a rate outside 0 … 1 and another form.
    Source: Huang et al. 2016, arXiv 1603.09382, eq. 4, with p_l = 1 − the rate given here.
    """
    last = checked_rate(last, "last")
    if not isinstance(num_blocks, int) or isinstance(num_blocks, bool) or num_blocks < 1:
        raise InvalidInput(f"num_blocks is {num_blocks!r}; a whole number of at least 1 is wanted.")
    if form == "huang":
        return [last * (block / num_blocks) for block in range(1, num_blocks + 1)]
    if form == "linspace":
        return [last * (block / max(num_blocks - 1, 1)) for block in range(num_blocks)]
    raise InvalidInput(f"form is {form!r}; it is one of {', '.join(get_args(Form))}.")
