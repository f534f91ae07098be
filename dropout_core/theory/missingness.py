"""Input dropout as missing values: which kind of missingness it is, and whether data is missing in that way.

Missing completely at random (MCAR): whether a value is missing depends on no value. At random (MAR): on values that
are seen. Not at random (MNAR): on the missing value itself. Input dropout is the first, and only the first: a network
trained with it is prepared for sensors that fail by chance, not for those that fail in the cold, nor for people who
keep a high income to themselves. To it a missing value is 0, and the others are divided by 1 − p.

Source: Rubin 1976, "Inference and missing data", Biometrika 63; Little 1988, "A test of missing completely at random
for multivariate data with missing values".
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import checked_rate


def missing_completely_at_random(shape: Sequence[int], p: float) -> Tensor:
    """Booleans of this shape, on the CPU, True where a value is missing, each with probability p: as in input dropout.

    It is given a shape and no values: P(mask) = p^(missing) · (1 − p)^(seen), whatever they are. To take values away
    from complete data: x.masked_fill(missing_completely_at_random(x.shape, p), nan). Drawn from torch's own randomness:
    from the seed that made the values, a mask would depend on them after all.
    """
    return torch.empty(tuple(shape), dtype=torch.bool).bernoulli_(checked_rate(p))


def missingness_dependence(values: Tensor, missing: Tensor) -> Tensor:
    """Whether values are missing as input dropout has it: z [C, C], all about N(0, 1) under MCAR.

    z_ij = (mean of feature j where i is missing − mean of it where i is seen) / standard error of that difference. A
    large |z_ij|, i ≠ j: i is missing by the values of j (MAR). A large |z_ii|: by its own values (MNAR).

    values: [N, C]; NaN where one is unknown, which is left out. missing: bool [N, C]. Returns float64, NaN where either
    group has fewer than two known values, or j is constant. Of real data that is the whole diagonal: what is missing
    was not seen, and no test can tell MNAR. It compares means: a dependence that leaves them alone is not seen.
    Source: the separate-variance t statistics of Little 1988.
    """
    if values.dim() != 2:
        raise InvalidInput(f"the values have shape {list(values.shape)}; [N, C] is wanted.")
    if missing.shape != values.shape or missing.dtype != torch.bool:
        came = f"{missing.dtype} {list(missing.shape)}"
        raise InvalidInput(f"the mask of missing values is {came}; torch.bool {list(values.shape)} is wanted.")
    known = ~values.isnan()
    # Centred, so that a large mean does not eat the variance.
    centred = torch.where(known, values.double() - values.double().nanmean(0), 0.0)
    gone, here = (_moments(centred, known, group) for group in (missing, ~missing))
    return (gone[0] - here[0]) / (gone[1] + here[1]).sqrt()


def _moments(values: Tensor, known: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Of each group i (a column) and feature j: the mean, and the squared standard error of that mean."""
    chosen = group.double().T
    count = chosen @ known.double()
    mean = chosen @ values / count
    spread = chosen @ values.square() - count * mean.square()
    return mean, spread / (count - 1.0) / count  # of one value 0 / 0, NaN
