"""Streaming moments over passes: memory does not grow with T, and no cancellation destroys small variances.

References:
    Welford 1962, for one pass at a time. Chan, Golub, LeVeque 1983, eq. 2.1, for merging two sets of passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations over passes, in float64.

    Attributes:
        count: Number of passes of all rows, or int64 [B, 1, …] with as many axes as the mean if rows differ.
        mean: Mean over passes, in the shape of one pass [B, …].
        m2: Sum of squared deviations, in the same shape.
    """

    count: int | Tensor
    mean: Tensor
    m2: Tensor

    @staticmethod
    def of(values: Tensor) -> "Moments":
        """Return the moments of values.

        Args:
            values: Passes [t, …] with t at least 1.

        Returns:
            Their moments.
        """
        values = values.double()
        mean = values.mean(0)
        return Moments(len(values), mean, (values - mean).square().sum(0))

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of two sets of passes.

        Args:
            other: Moments of other passes over the same rows.

        Returns:
            The moments of both.
        """
        if isinstance(other.count, int) and other.count == 0:
            return self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta.square() * (self.count * other.count / count)
        return Moments(count, mean, m2)

    @property
    def variance(self) -> Tensor:
        """The population variance over passes."""
        return self.m2 / self.count

    def rows(self, wanted: Tensor | slice) -> "Moments":
        """Return the moments of some rows.

        Args:
            wanted: Row numbers, a bool for each row, or a slice, whose result are views.

        Returns:
            Their moments.
        """
        count = self.count[wanted] if isinstance(self.count, Tensor) else self.count
        return Moments(count, self.mean[wanted], self.m2[wanted])

    def affine(self, scale: Tensor, shift: Tensor) -> "Moments":
        """Return the moments of scale · value + shift.

        Args:
            scale: Factor.
            shift: Summand.

        Returns:
            The moments.
        """
        return Moments(self.count, self.mean * scale + shift, self.m2 * scale.square())


Statistics = Mapping[str, Moments]


def moments_of(values: Mapping[str, Tensor]) -> Statistics:
    """Return the moments of each named value.

    Args:
        values: Passes [t, …] by name.

    Returns:
        Moments by name.
    """
    return {name: Moments.of(value) for name, value in values.items()}


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Return the statistics of two sets of passes over the same rows.

    Args:
        a: Statistics of some passes.
        b: Statistics of other passes.

    Returns:
        The statistics of both.
    """
    return {name: moments.merge(b[name]) for name, moments in a.items()}


def rows_of(statistics: Statistics, wanted: Tensor | slice) -> Statistics:
    """Return the statistics of some rows.

    Args:
        statistics: Statistics of all rows.
        wanted: Row numbers, a bool for each row, or a slice, whose result are views.

    Returns:
        Their statistics.
    """
    return {name: moments.rows(wanted) for name, moments in statistics.items()}


def concatenate(parts: list[Statistics]) -> Statistics:
    """Return the statistics of several sets of rows, in order.

    Args:
        parts: Statistics of each set.

    Returns:
        The statistics of all rows.
    """
    return {name: _concatenated([part[name] for part in parts]) for name in parts[0]}


def _concatenated(parts: list[Moments]) -> Moments:
    if len(parts) == 1:
        return parts[0]
    mean, m2 = torch.cat([part.mean for part in parts]), torch.cat([part.m2 for part in parts])
    if len({part.count for part in parts if isinstance(part.count, int)}) == 1:
        return Moments(parts[0].count, mean, m2)
    return Moments(torch.cat([_for_each_row(part) for part in parts]), mean, m2)


def _for_each_row(part: Moments) -> Tensor:
    shape = (len(part.mean), *[1] * (part.mean.dim() - 1))
    return torch.as_tensor(part.count, device=part.mean.device).expand(shape)
