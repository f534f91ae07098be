"""Dropout of square regions of a feature map."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, capturing, checked_rank, kept, unscaled_mask


def drop_block(x: Tensor, p: float, block_size: int, training: bool = True, count_normalized: bool = False) -> Tensor:
    """Return x · m / (1 − p), where m is 0 on blocks of b^d elements, drawn for each row and channel.

    Every place where a block can meet the map, partly included, starts a block with probability
    g = 1 − (1 − p)^(1 / b^d). An element lies in b^d such places, at the border as in the middle, so it is kept with
    probability (1 − g)^(b^d) = 1 − p. At p = 1 the output is 0.

    Args:
        x: Input [B, C, *] with d spatial axes, each of at least b.
        p: Drop probability of an element.
        block_size: Length b of a block along each spatial axis.
        training: Whether to drop; otherwise x is returned.
        count_normalized: Whether to use the paper's form: blocks lie within the map, each place starts one with
            probability g = p / b^d · ∏ n / (n − b + 1) over the axes' lengths n, and the kept elements of a row are
            multiplied by the number of elements over the number kept.

    Returns:
        A tensor of the same shape.

    Raises:
        InvalidInput: x has no spatial axis, or one shorter than b.
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
    """Return the product of values over every window, in O(log size) products.

    Windows of 2, 4, … are made of two adjacent halves that never overlap, so that no factor counts twice.

    Args:
        values: Input [B, C, *].
        size: Length of a window along each axis of *.

    Returns:
        [B, C, *] with each axis of * shorter by size − 1.
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
    """Multiply each left value by the right value that begins `width` further on."""
    count = right.shape[axis] - width
    return left.narrow(axis, 0, count) * right.narrow(axis, width, count)


class DropBlock1d(RateLayer):
    """Drops stretches of block_size neighbours of [B, C, L], because neighbouring elements carry the same information.

    Each row and channel has its own blocks. The realised drop rate is p and the expectation of the output is the input,
    for every block size and every map at least as long. In eval mode the layer returns its input.

    The paper places it after the convolutions of the later stages: in groups 3 and 4 of ResNet-50, on the skip
    connections too, with blocks of 7 and p raised linearly from 0 to 0.1 during training (set `p` after each epoch).

    Args:
        p: Drop probability of an element, between 0 and 1.
        block_size: Length of a block along each spatial axis, at least 1.
        count_normalized: Whether to use the paper's own form, which scales each row (there: the batch) by the share it
            kept. Its realised rate is not p, because blocks overlap and the border is covered less. At p = 0.1, blocks
            of 7 and maps of 14 × 14 it is 0.09294 over the map, 0.00625 in a corner and 0.2645 in the middle, and the
            expectation of an element is not its value.

    Raises:
        InvalidInput: p is out of range, block_size is not an integer of at least 1, or a map is smaller than a block.

    References:
        Ghiasi et al. 2018, arXiv 1810.12890, algorithm 1 and eq. 1. The exact form is ours.
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
        """Return the drop probability, the block size and the form."""
        return f"p={self.p}, block_size={self.block_size}, count_normalized={self.count_normalized}"


class DropBlock2d(DropBlock1d):
    """Drops squares of block_size × block_size of [B, C, H, W]; otherwise like DropBlock1d.

    Args:
        p: Drop probability of an element, between 0 and 1.
        block_size: Side of a square, at least 1.
        count_normalized: Whether to use the paper's own form.
    """

    _shape = "[B, C, H, W]"
