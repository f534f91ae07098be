"""What survives along a path: through the blocks of a residual network, and through the steps of a recurrent one."""

import math
from collections.abc import Iterable

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import checked_rate
from dropout_core.layers.path import DepthForm, linear_depth_rates


def expected_active_depth(rates: Iterable[float]) -> float:
    """Σ (1 − p_l): the residual blocks that run on average under stochastic depth at these drop probabilities.

    It holds whether or not the blocks' draws depend on each other. The training time of the blocks shrinks to the
    share expected_active_depth(rates) / L, where dropped blocks are not computed.
    Source: Huang et al. 2016, arXiv 1603.09382, section 3.
    """
    return math.fsum(1.0 - checked_rate(rate, "a rate") for rate in rates)


def last_rate_for_depth(num_blocks: int, depth: float, form: DepthForm = "linspace") -> float:
    """The `last` at which linear_depth_rates(num_blocks, last, form) has this expected active depth.

    2 · (L − depth) / L for "linspace", of two blocks or more, and 2 · (L − depth) / (L + 1) for "huang": with their
    last = 0.5 the depth is (3L − 1) / 4. Raises InvalidInput for a depth that no `last` gives.
    Source: Huang et al. 2016, arXiv 1603.09382, section 3, solved for the rate.
    """
    most_dropped = math.fsum(linear_depth_rates(num_blocks, 1.0, form))
    if not num_blocks - most_dropped <= depth <= num_blocks:
        low = f"{num_blocks - most_dropped:g}"
        raise InvalidInput(f"depth is {depth!r}; with {num_blocks} blocks one of {low} … {num_blocks} is wanted.")
    return (num_blocks - depth) / most_dropped if most_dropped else 0.0


def recurrent_attenuation(p: float, steps: int) -> float:
    """keep^T, keep = 1 − p: the share of a signal that is left after T steps that each draw a mask of their own.

    The probability that a path through T masks survives; in the unscaled form, where a kept unit is multiplied by 1,
    the expectation of a linear recurrence is this times what it would be, its gradient too. In the inverted form the
    expectation is kept and the second moment of a path is 1 / keep^T. A mask that is drawn once for a sequence
    (LockedDropout, VariationalLSTM) leaves a unit's own path open with probability keep, however long it is.
    Raises InvalidInput for a negative number of steps.
    Source: Semeniuta et al. 2016, arXiv 1603.05118, on why the state of a recurrent layer is not to be dropped so.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise InvalidInput(f"steps is {steps!r}; a whole number of at least 0 is wanted.")
    return float((1.0 - checked_rate(p)) ** steps)
