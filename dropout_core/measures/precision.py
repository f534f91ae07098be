"""Monte Carlo errors of T passes, and when they are small enough.

Balanced passes of one block are not independent, so their error is estimated between blocks of 16 (batch means; Law,
Kelton 2000, section 9.5.3), whose means are independent and identically distributed. A few blocks estimate their own
spread poorly, so every standard error is widened by Student's quantile: ± 1.96 of it is a 95 % interval as far as
means of passes are normal. Where a probability leaves 0 or 1 in rare passes only, a few passes do not contain such a
pass.
"""

import math

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.measures.moments import Moments, Statistics
from dropout_core.measures.tolerance import Tolerance
from dropout_core.noise.limits import BLOCK

BLOCKS, CLUSTERS = "blocks/", "clusters/"
_NORMAL = 1.959964
# Student's 0.975 quantiles for 1 … 10 degrees of freedom; beyond, Fisher's expansion is right to 2e-4.
_STUDENT = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)


def standard_error(statistics: Statistics) -> Tensor:
    """Return the Monte Carlo standard error of the predictive mean.

    The variance of balanced passes is at most 16/15 of that of independent passes (Owen 1997, Annals of Statistics 25,
    section 3). For branches the error is estimated between clusters of sixteen trunks.

    Args:
        statistics: Moments of at least two passes, or of two clusters of branches.

    Returns:
        [B, *P, C].

    Raises:
        InvalidInput: There are too few passes.
    """
    value, blocks = statistics["value"], statistics.get(BLOCKS + "value")
    if (clusters := statistics.get(CLUSTERS + "value")) is not None:
        if _smallest(clusters) < 2:
            raise InvalidInput(f"passes that branch have a standard error from {2 * BLOCK} trunks on; ask for more.")
        return _error_of_mean(clusters)
    if _smallest(value) < 2:
        raise InvalidInput("one pass has no standard error; ask for at least two.")
    independent = _error_of_mean(value)
    if blocks is None:
        return independent
    bound = independent * math.sqrt(BLOCK / (BLOCK - 1))
    if isinstance(blocks.count, int):
        return torch.minimum(bound, _error_of_mean(blocks)) if blocks.count >= 2 else bound
    return torch.where(blocks.count >= 2, torch.minimum(bound, _error_of_mean(blocks)), bound)


def mutual_information_error(statistics: Statistics) -> Tensor:
    """Return the Monte Carlo standard error of mutual information, from its value in each block.

    Args:
        statistics: Moments with at least two blocks.

    Returns:
        [B, *P].

    Raises:
        InvalidInput: There are fewer than two blocks.
    """
    blocks = statistics.get(BLOCKS + "mutual_information")
    if blocks is None or _smallest(blocks) < 2:
        raise InvalidInput(f"mutual information has a standard error from {2 * BLOCK} trunks on; ask for as many.")
    return _error_of_mean(blocks)


def passes_used(statistics: Statistics) -> Tensor:
    """Return how many passes each row took; fewer than allowed if a tolerance was met earlier.

    Args:
        statistics: Moments.

    Returns:
        int64 [B].
    """
    value = statistics["value"]
    return torch.as_tensor(value.count, device=value.mean.device).flatten().expand(len(value.mean))


ERRORS = {"mean": standard_error, "mutual_information": mutual_information_error}
PRECISION = {
    "passes_used": passes_used,
    "standard_error": standard_error,
    "mutual_information_standard_error": mutual_information_error,
}


def precise(statistics: Statistics, tolerance: Tolerance) -> Tensor:
    """Return which rows need no more passes: every measure is precise in every column and position.

    Args:
        statistics: Moments.
        tolerance: Largest standard error by measure.

    Returns:
        bool [B].
    """
    errors = [(ERRORS[name](statistics), bound) for name, bound in tolerance.items()]
    return torch.stack([(error <= bound).unsqueeze(-1).flatten(1).all(1) for error, bound in errors]).all(0)


def _error_of_mean(moments: Moments) -> Tensor:
    count = torch.as_tensor(moments.count, dtype=torch.float64)  # of all rows alike, it stays where Python has it
    return (moments.m2 / (count - 1) / count).sqrt() * (_student(count - 1) / _NORMAL)


def _student(degrees: Tensor) -> Tensor:
    """Return the 0.975 quantile of Student's distribution."""
    z, n = _NORMAL, degrees
    expanded = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    expanded = expanded + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    few = torch.tensor(_STUDENT, dtype=torch.float64, device=n.device)
    return torch.where(n <= len(few), few[n.long().clamp(1, len(few)) - 1], expanded)


def _smallest(moments: Moments) -> int:
    if isinstance(moments.count, int):
        return moments.count
    return int(moments.count.min()) if moments.count.numel() else BLOCK
