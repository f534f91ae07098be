"""Tolerances: the standard errors at which a row stops taking passes."""

import math
from collections.abc import Mapping

from dropout_core.errors import InvalidInput

TOLERABLE = ("mean", "mutual_information")
Tolerance = Mapping[str, float]


def checked_tolerance(tolerance: float | Tolerance | None) -> Tolerance | None:
    """Return a tolerance by measure.

    Args:
        tolerance: A bound of the standard error of the mean, or bounds by the name of a measure.

    Returns:
        The bounds by measure, or None if there is no tolerance.

    Raises:
        InvalidInput: A measure has no tolerance, the mapping is empty, or a bound is not finite and above 0.
    """
    if tolerance is None:
        return None
    by_name = dict(tolerance) if isinstance(tolerance, Mapping) else {"mean": tolerance}
    unknown = sorted(set(by_name) - set(TOLERABLE))
    if unknown or not by_name:
        came = ", ".join(unknown) or "nothing"
        raise InvalidInput(f"there is a tolerance for {came}; there can be one for {', '.join(TOLERABLE)}.")
    wrong = {name: bound for name, bound in by_name.items() if not 0 < bound < math.inf}
    if wrong:
        raise InvalidInput(f"the tolerances {wrong} must be finite and above 0.")
    return by_name
