"""Dropout of given groups of units."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import RateLayer, mask


def group_dropout(x: Tensor, groups: Tensor, num_groups: int, p: float, training: bool = True) -> Tensor:
    """Return x · m[group] / (1 − p) with one m ~ Bernoulli(1 − p) for each row and group.

    Args:
        x: Input [B, C, *].
        groups: int64 [C], the group of each unit, 0 … num_groups − 1.
        num_groups: Number of groups.
        p: Drop probability of a group.
        training: Whether to drop; otherwise x is returned.

    Returns:
        A tensor of the same shape.
    """
    if not training or p == 0:
        return x
    drawn = mask(x, (x.shape[0], num_groups), p).index_select(1, groups)
    return x * drawn.reshape(*drawn.shape, *[1] * (x.dim() - 2))


class GroupDropout(RateLayer):
    """Drops given groups of units together.

    The input is [B, C, *] and keeps its shape. Use it where a part of the input fails as a whole: the one-hot columns
    of one feature, the channels of one sensor, the heads of one attention layer.

    Args:
        groups: The group of each of the C units, such as [0, 0, 1, 2, 2].
        p: Drop probability of a group, between 0 and 1.

    Raises:
        InvalidInput: The groups are not numbered 0 … G − 1, their number differs from C, or p is out of range.

    References:
        Dropout (Srivastava et al. 2014) with one draw for each group.
    """

    groups: Tensor

    def __init__(self, groups: Sequence[int], p: float) -> None:
        super().__init__(p)
        if not groups or set(groups) != set(range(max(groups) + 1)):
            raise InvalidInput(f"the groups are {list(groups)}; give each unit one of 0 … G − 1, each of them used.")
        self.num_groups = max(groups) + 1
        self.register_buffer("groups", torch.tensor(groups), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drop groups of units of x."""
        if x.dim() < 2 or x.shape[1] != len(self.groups):
            raise InvalidInput(f"the input has shape {list(x.shape)}; [B, {len(self.groups)}, *] is wanted.")
        return group_dropout(x, self.groups, self.num_groups, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the drop probability and the number of groups."""
        return f"p={self.p}, num_groups={self.num_groups}"
