"""Limits of a choice: excluded rows, label costs, and quotas per group.

Ties between equal rows are broken by a counter-based draw that depends on the seed and the index of the row, never on
the number of rows. A seed therefore fixes the whole choice, and the choice does not favour rows that come early.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.noise.philox import words

# a counter site of its own: a network's sites count from 0
_TIE_SITE = 2**32 - 5
# more rows than there are
_WITHOUT_LIMIT = 2**62


@dataclass(frozen=True)
class Constraints:
    """Limits of a choice.

    Attributes:
        exclude: Indices of rows that are never chosen.
        costs: Cost of the label of each row, [B], above 0. The score of a row becomes its score per cost, and scores
            must be at least 0.
        groups: The group of each row, B of them.
        quotas: Most rows to choose from a group: one number for all groups, or one by group. A group without a quota
            has no limit.
    """

    exclude: Sequence[int] | Tensor = ()
    costs: Tensor | None = None
    groups: Sequence[Any] | Tensor | None = None
    quotas: Mapping[Any, int] | int | None = None

    def check(self, num_rows: int) -> None:
        """Check the limits against the size of a pool.

        Args:
            num_rows: Number of rows in the pool.

        Raises:
            InvalidInput: The limits do not fit the pool.
        """
        _excluded(self.exclude, num_rows)
        if self.costs is not None:
            if self.costs.shape != (num_rows,):
                raise InvalidInput(f"the costs have shape {list(self.costs.shape)}; [{num_rows}] is wanted.")
            if not ((self.costs > 0) & self.costs.isfinite()).all():
                raise InvalidInput("a cost is not a finite number above 0; costs above 0 are wanted.")
        if (self.groups is None) != (self.quotas is None):
            raise InvalidInput("there are groups or quotas, and not both; quotas need the group of each row.")
        if self.groups is not None and len(self.groups) != num_rows:
            raise InvalidInput(f"there are {len(self.groups)} groups; one for each of the {num_rows} rows is wanted.")
        check_quotas(self.quotas)

    def scaled(self, times: int) -> "Constraints":
        """Return the same limits with larger quotas.

        Args:
            times: Factor of the quotas.

        Returns:
            The limits.
        """
        if self.quotas is None:
            return self
        if isinstance(self.quotas, int):
            return replace(self, quotas=self.quotas * times)
        return replace(self, quotas={group: most * times for group, most in self.quotas.items()})

    def of_rows(self, rows: Tensor) -> "Constraints":
        """Return the limits of some rows, none of which is excluded.

        Args:
            rows: Row indices, int64 [n].

        Returns:
            The limits of a pool that consists of these rows.
        """
        costs = None if self.costs is None else self.costs[rows.to(self.costs.device)]
        if self.groups is None or isinstance(self.groups, Tensor):
            groups = None if self.groups is None else self.groups[rows.to(self.groups.device)]
            return replace(self, exclude=(), costs=costs, groups=groups)
        return replace(self, exclude=(), costs=costs, groups=[self.groups[row] for row in rows.tolist()])

    def per_cost(self, values: Tensor) -> Tensor:
        """Divide the value of each row by the cost of its label.

        Args:
            values: One value per row, [B].

        Returns:
            The values per cost, or the values if there are no costs.
        """
        return values if self.costs is None else values / self.costs.to(values.device, torch.float64)


NO_LIMITS = Constraints()


def check_quotas(quotas: Mapping[Any, int] | int | None) -> None:
    """Check that quotas are not negative.

    Args:
        quotas: One number, one number by group, or None.

    Raises:
        InvalidInput: A quota is below 0.
    """
    least = min(quotas.values(), default=0) if isinstance(quotas, Mapping) else quotas
    if least is not None and least < 0:
        raise InvalidInput(f"the quotas are {quotas}; each must be at least 0.")


def drawn_order(num_rows: int, k: int, seed: int, limits: Constraints, device: torch.device) -> Tensor:
    """Return the rows that may be chosen, in an order drawn by the seed.

    Args:
        num_rows: Number of rows in the pool.
        k: Number of rows to pick.
        seed: Seed of the order.
        limits: Excluded rows, costs and quotas.
        device: Device of the result.

    Returns:
        Row indices, int64.

    Raises:
        InvalidInput: k is below 1, or the limits do not fit the pool.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; ask for at least 1 row.")
    limits.check(num_rows)
    passes = torch.zeros(1, dtype=torch.int64, device=device)
    order = words(seed, _TIE_SITE, passes, (num_rows,))[0].argsort(stable=True)
    return order[open_rows(num_rows, limits.exclude).to(device)[order]]


def open_rows(num_rows: int, exclude: Sequence[int] | Tensor) -> Tensor:
    """Return which rows are not excluded.

    Args:
        num_rows: Number of rows in the pool.
        exclude: Indices of the excluded rows.

    Returns:
        A mask, bool [B], on the CPU.
    """
    keep = torch.ones(num_rows, dtype=torch.bool)
    keep[_excluded(exclude, num_rows)] = False
    return keep


def within_quotas(order: Tensor, k: int, limits: Constraints) -> Tensor:
    """Return the first k rows of `order` that respect the quotas.

    Args:
        order: Row indices, best first.
        k: Number of rows to return.
        limits: Groups and quotas.

    Returns:
        Row indices, int64; fewer than k if the quotas leave fewer.
    """
    if limits.groups is None:
        return order[:k]
    codes, room = _coded(limits, order.device)
    codes = codes[order]
    by_group = codes.argsort(stable=True)
    counts = torch.bincount(codes, minlength=len(room))
    number = torch.empty_like(codes)  # how many of its group come before a row
    begins = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    number[by_group] = torch.arange(len(codes), device=codes.device) - begins
    return order[number < room[codes]][:k]


@dataclass
class OpenRows:
    """The rows that may still be picked during a choice of one row at a time.

    Attributes:
        keep: Whether each row may still be picked, bool [B].
        limits: Limits that were checked against the pool.
    """

    keep: Tensor
    limits: Constraints = NO_LIMITS
    _coded: tuple[Tensor, Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.limits.groups is not None:
            self._coded = codes, room = _coded(self.limits, self.keep.device)
            self.keep = self.keep & (room[codes] > 0)

    def take(self, row: int) -> None:
        """Pick a row, which closes the row, and its group if the quota is reached.

        Args:
            row: Index of the row.
        """
        self.keep[row] = False
        if self._coded is not None:
            codes, room = self._coded
            room[codes[row]] -= 1
            if room[codes[row]] <= 0:
                self.keep &= codes != codes[row]


def _coded(limits: Constraints, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the group number of each row, int64 [B], and the quota of each group, int64 [groups]."""
    groups = limits.groups.tolist() if isinstance(limits.groups, Tensor) else (limits.groups or ())
    numbers: dict[Hashable, int] = {}
    codes = torch.tensor([numbers.setdefault(group, len(numbers)) for group in groups], dtype=torch.int64)
    quotas = limits.quotas
    room = [quotas.get(group, _WITHOUT_LIMIT) if isinstance(quotas, Mapping) else quotas for group in numbers]
    return codes.to(device), torch.tensor(room, dtype=torch.int64, device=device)


def _excluded(exclude: Sequence[int] | Tensor, num_rows: int) -> Tensor:
    rows = exclude if isinstance(exclude, Tensor) else torch.tensor(list(exclude))
    if not rows.numel():
        return torch.zeros(0, dtype=torch.int64)
    if rows.dtype == torch.bool or rows.is_floating_point():
        raise InvalidInput(f"the excluded rows are {rows.dtype}; their indices, whole numbers, are wanted.")
    if rows.min() < 0 or rows.max() >= num_rows:
        raise InvalidInput(f"an excluded row is not among the {num_rows} rows; 0 … {num_rows - 1} are wanted.")
    return rows.to("cpu", torch.int64).flatten()
