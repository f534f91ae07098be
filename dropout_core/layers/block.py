"""Dropout of square regions of a feature map."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, capturing, checked_rank, kept, unscaled_mask


def drop_block(x: Tensor, p: float, block_size: int, training: bool = True, count_normalized: bool = False) -> Tensor:
    """x · m / (1 − p), where m is 0 on blocks of b × b, drawn for each row and channel of x [B, C, *].

    * is d axes of space, each of at least b = block_size; over d axes a block is b^d elements. Every place where a
    block can meet the map, also in part, starts one with probability g = 1 − (1 − p)^(1 / b^d). At the border as in the
    middle an element lies in b^d such places, so that it is kept with probability (1 − g)^(b^d) = 1 − p.

    count_normalized: the paper's form. Blocks lie within the map, each place starts one with probability
    g = p / b^d · ∏ n / (n − b + 1) over the axes' lengths n, and what is kept of a row is multiplied by its number of
    elements over the number kept.

    At p = 1 the output is 0. Raises InvalidInput for an axis shorter than b.
    """
    if x.dim() < 3 or min(x.shape[2:]) < block_size:
        raise InvalidInput(
            f"the input has shape {list(x.shape)} and the blocks are of {block_size}; "
            f"[B, C, *] with axes * of at least {block_size} is wanted."
        )
    if not training or p == 0:
        return x
    if p == 1:
        return F.dropout(x, 1.0)
    return _count_normalized(x, p, block_size) if count_normalized else _exact(x, p, block_size)


def _exact(x: Tensor, p: float, size: int) -> Tensor:
    places = [x.shape[0], x.shape[1], *(length + size - 1 for length in x.shape[2:])]
    keep_place = (1.0 - p) ** (1.0 / size ** (x.dim() - 2))
    stays = window_product(unscaled_mask(x, places, keep_place), size)
    if capturing():
        return x * (stays / (1.0 - p)).to(x.dtype)
    return x * stays / (1.0 - p)


def _count_normalized(x: Tensor, p: float, size: int) -> Tensor:
    spatial = x.shape[2:]
    places = [length - size + 1 for length in spatial]
    start = p / size ** len(spatial) * math.prod(n / m for n, m in zip(spatial, places, strict=True))
    inside = kept(x, [x.shape[0], x.shape[1], *places], start)
    stays = window_product(F.pad(inside, [size - 1] * 2 * len(spatial), value=True), size)
    # The number kept of a large map is past what a half can hold.
    wide = torch.promote_types(x.dtype, torch.float32)
    count = stays.sum(tuple(range(1, x.dim())), keepdim=True, dtype=wide).clamp(min=1)
    return (x * stays * (math.prod(x.shape[1:]) / count)).to(x.dtype)


def window_product(values: Tensor, size: int) -> Tensor:
    """The product of values [B, C, *] over every window of `size` along each axis of *, in O(log size) products.

    Windows of 2, 4, … are made of two halves side by side, never overlapping: of probabilities no factor counts twice.
    """
    for axis in range(2, values.dim()):
        windows, width = values, 1
        for bit in bin(size)[3:]:
            windows = _side_by_side(windows, windows, width, axis)
            width *= 2
            if bit == "1":
                windows = _side_by_side(windows, values, width, axis)
                width += 1
        values = windows
    return values


def _side_by_side(left: Tensor, right: Tensor, width: int, axis: int) -> Tensor:
    """Each left times the right that begins `width` further on."""
    count = right.shape[axis] - width
    return left.narrow(axis, 0, count) * right.narrow(axis, width, count)


class DropBlock1d(RateLayer):
    """Drops stretches of block_size neighbours of [B, C, L]: what one pixel shows, its neighbours show too.

    Shape: [B, C, L], unchanged. Each row and channel has its own blocks. The realised drop rate is p and the
    expectation of the output is the input, for every block, odd or even, and every map at least as long.

    count_normalized: the paper's own form, which scales each row (there: the batch) by the share it kept. Its realised
    rate is not p: blocks overlap, and the border is covered less. At p = 0.1, blocks of 7 and maps of 14 × 14 it is
    0.09294 over the map, 0.00625 in a corner and 0.2645 in the middle, and the expectation of an element is not its
    value.

    Place it after the convolutions of the later stages: the paper does so in groups 3 and 4 of ResNet-50, on the skip
    connections also, with blocks of 7 and p raised linearly from 0 to 0.1 during training (set `p` after each epoch).
    Raises InvalidInput for a block that is no whole number of at least 1, and for maps smaller than a block.
    Source: Ghiasi et al. 2018, arXiv 1810.12890, algorithm 1 and eq. 1; the exact form is ours.
    """

    _shape = "[B, C, L]"

    def __init__(self, p: float, block_size: int, count_normalized: bool = False) -> None:
        super().__init__(p)
        if not isinstance(block_size, int) or isinstance(block_size, bool) or block_size < 1:
            raise InvalidInput(f"block_size is {block_size!r}; a whole number of at least 1 is wanted.")
        self.block_size, self.count_normalized = block_size, count_normalized

    def forward(self, x: Tensor) -> Tensor:
        """Drop blocks of x."""
        checked_rank(x, (self._shape.count(",") + 1,), self._shape)
        return drop_block(x, self.p, self.block_size, self.training, self.count_normalized)

    def extra_repr(self) -> str:
        """The drop probability, the block and the form."""
        return f"p={self.p}, block_size={self.block_size}, count_normalized={self.count_normalized}"


class DropBlock2d(DropBlock1d):
    """Drops squares of block_size × block_size of [B, C, H, W]; otherwise as DropBlock1d."""

    _shape = "[B, C, H, W]"
