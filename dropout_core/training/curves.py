"""Curves: factors over steps, which multiply drop probabilities."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from dropout_core.errors import InvalidInput

CurriculumForm = Literal["constant", "linear"]


class Curve(ABC):
    """A factor, at least 0, for every step: `curve(step)`."""

    @property
    def greatest(self) -> float:
        """A bound that the factor never exceeds."""
        return 1.0

    @abstractmethod
    def at(self, step: int) -> float:
        """Return the factor at a step.

        Args:
            step: The step, at least 0.

        Returns:
            The factor.
        """

    def __call__(self, step: int) -> float:
        """Return the factor at a step. Raises InvalidInput if it is not an integer of at least 0."""
        return self.at(checked_count(step, "step", 0))


@dataclass(frozen=True)
class Constant(Curve):
    """The same factor at every step.

    Attributes:
        factor: The factor.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_numbers(factor=self.factor)

    @property
    def greatest(self) -> float:
        """The factor."""
        return self.factor

    def at(self, step: int) -> float:  # noqa: ARG002 - one law for all curves
        """Return the factor."""
        return self.factor


@dataclass(frozen=True)
class LinearRamp(Curve):
    """start + (end − start) · t / steps, and `end` from then on.

    From 0 to 1 it is scheduled DropBlock over all of training (Ghiasi et al. 2018, arXiv 1810.12890); from 1 to 0 it is
    annealed dropout (Rennie, Goel, Thomas 2014, SLT).

    Attributes:
        steps: Number of steps of the ramp.
        start: Factor at step 0.
        end: Factor at the end.
    """

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        checked_count(self.steps, "steps", 1)
        _check_numbers(start=self.start, end=self.end)

    @property
    def greatest(self) -> float:
        """The larger end."""
        return max(self.start, self.end)

    def at(self, step: int) -> float:
        """Return the factor at a step."""
        return _between(self.start, self.end, min(step / self.steps, 1.0))


@dataclass(frozen=True)
class Decay(Curve):
    """end + (start − end) · gamma^t: a gradual approach, whose rest halves in −log 2 / log gamma steps.

    This is annealing as in Rennie, Goel, Thomas 2014, "Annealed dropout training of deep networks", at a geometric
    pace.

    Attributes:
        gamma: Factor per step.
        start: Factor at step 0.
        end: Limit.
    """

    gamma: float
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        _check_numbers(gamma=self.gamma, start=self.start, end=self.end)
        if not 0.0 < self.gamma < 1.0:
            raise InvalidInput(f"gamma is {self.gamma}; a number above 0 and below 1 is wanted.")

    @property
    def greatest(self) -> float:
        """The larger end."""
        return max(self.start, self.end)

    def at(self, step: int) -> float:
        """Return the factor at a step."""
        return _between(self.end, self.start, self.gamma**step)


@dataclass(frozen=True)
class Curriculum(Curve):
    """1 − exp(−sharpness · t / steps): from no dropout towards p, fast at first.

    As keep probabilities this is θ(t) = (1 − θ) · exp(−g·t) + θ with θ = 1 − p and g = sharpness / steps.

    Attributes:
        steps: Number T of all training steps. With the paper's g = 10 / T the rate stays 5e-5 of p below p at the end.
        sharpness: How fast the rate rises.

    References:
        Morerio et al. 2017, arXiv 1703.06229.
    """

    steps: int
    sharpness: float = 10.0

    def __post_init__(self) -> None:
        checked_count(self.steps, "steps", 1)
        _check_numbers(sharpness=self.sharpness)

    def at(self, step: int) -> float:
        """Return the factor at a step."""
        return -math.expm1(-self.sharpness * step / self.steps)


@dataclass(frozen=True)
class Early(Curve):
    """Dropout for the first steps only, for networks that underfit; then 0.

    The final network has no dropout, so it has nothing to show in Monte Carlo passes. Late dropout, for networks that
    overfit, is StepTable({0: 0.0, 50: 1.0}).

    Attributes:
        steps: Number of steps with dropout; the paper uses 50 of 300 epochs.
        form: "constant" is 1 within these steps, "linear" falls as 1 − t / steps.

    References:
        Liu et al. 2023, arXiv 2303.01500.
    """

    steps: int
    form: CurriculumForm = "linear"

    def __post_init__(self) -> None:
        checked_count(self.steps, "steps", 1)
        if self.form not in get_args(CurriculumForm):
            raise InvalidInput(f"form is {self.form!r}; it is one of {', '.join(get_args(CurriculumForm))}.")

    def at(self, step: int) -> float:
        """Return the factor at a step."""
        if self.form == "constant":
            return float(step < self.steps)
        return max(1.0 - step / self.steps, 0.0)


@dataclass(frozen=True)
class StepTable(Curve):
    """The factor of the last entry at or before the step: {0: 0.5, 30: 1.0} is 0.5 for 30 steps, then 1.

    Attributes:
        table: Factors by the step from which on they hold.

    Raises:
        InvalidInput: The table does not begin at step 0.
    """

    table: Mapping[int, float]

    def __post_init__(self) -> None:
        for step, factor in self.table.items():
            checked_count(step, "a step of the table", 0)
            _check_numbers(**{f"the factor of step {step}": factor})
        if 0 not in self.table:
            raise InvalidInput(f"the table is {dict(self.table)}; one with an entry for step 0 is wanted.")
        # A copy: the caller's table may change.
        object.__setattr__(self, "table", dict(sorted(self.table.items())))

    @property
    def greatest(self) -> float:
        """The largest factor."""
        return max(self.table.values())

    def at(self, step: int) -> float:
        """Return the factor at a step."""
        return self.table[max(start for start in self.table if start <= step)]


@dataclass(frozen=True)
class AdaptiveState:
    """What `Adaptive` remembers of the steps since its last change.

    Attributes:
        factor: The current factor.
        least_gap: The smallest gap.
        best_loss: The lowest training loss.
        widening: Number of consecutive steps with a gap above the smallest one.
        stalled: Number of consecutive steps with a training loss not below the lowest one.
    """

    factor: float
    least_gap: float = math.inf
    best_loss: float = math.inf
    widening: int = 0
    stalled: int = 0


@dataclass(frozen=True)
class Adaptive:
    """A factor that follows the losses: `schedule.step(train_loss=…, validation_loss=…)`, best once per epoch.

    The gap is validation loss − training loss. If it stayed above the smallest gap since the last change for `patience`
    consecutive steps, the network overfits, and the factor rises by `size`. Otherwise, if the training loss was not
    below its lowest value since then for as long, the network is held back, and the factor falls by `size`. After a
    change, the next losses are the first to compare with. Processes that train one network together need the same
    losses. The rule is ours.

    Attributes:
        start: Factor at step 0.
        size: Size of a change.
        patience: Number of consecutive steps before a change.
        lowest: Smallest factor, so that a layer's rate stays above this multiple of its p.
        highest: Largest factor.
        tolerance: Differences up to it, in units of the loss, do not count.
    """

    start: float = 1.0
    size: float = 0.1
    patience: int = 3
    lowest: float = 0.5
    highest: float = 1.5
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        checked_count(self.patience, "patience", 1)
        _check_numbers(size=self.size, lowest=self.lowest, highest=self.highest, tolerance=self.tolerance)
        if not self.lowest <= self.start <= self.highest:
            raise InvalidInput(f"start is {self.start}; a number within {self.lowest} … {self.highest} is wanted.")

    @property
    def greatest(self) -> float:
        """The highest factor."""
        return self.highest

    def first(self) -> AdaptiveState:
        """The state before any loss."""
        return AdaptiveState(self.start)

    def after(self, state: AdaptiveState, train_loss: float, validation_loss: float) -> AdaptiveState:
        """Return the state after one more step.

        Args:
            state: The state before it.
            train_loss: Training loss, finite.
            validation_loss: Validation loss, finite.

        Returns:
            The new state.
        """
        gap = validation_loss - train_loss
        widening = state.widening + 1 if gap > state.least_gap + self.tolerance else 0
        improved = train_loss < state.best_loss - self.tolerance
        stalled = 0 if improved else state.stalled + 1
        if widening >= self.patience:
            return AdaptiveState(min(state.factor + self.size, self.highest))
        if stalled >= self.patience:
            return AdaptiveState(max(state.factor - self.size, self.lowest))
        best_loss = train_loss if improved else state.best_loss
        return AdaptiveState(state.factor, min(gap, state.least_gap), best_loss, widening, stalled)


def checked_count(value: int, name: str, least: int) -> int:
    """Return an integer after checking it.

    Args:
        value: The value.
        name: Its name in messages.
        least: Smallest value.

    Returns:
        The value.

    Raises:
        InvalidInput: It is not an integer of at least `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInput(f"{name} is {value!r}; a whole number of at least {least} is wanted.")
    return value


def _check_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0.0 <= value < math.inf:
            raise InvalidInput(f"{name} is {value!r}; a finite number of at least 0 is wanted.")


def _between(start: float, end: float, share: float) -> float:
    """Return start + (end − start) · share, exact at both ends and never beyond them by rounding."""
    inside = start * (1.0 - share) + end * share
    return min(max(inside, min(start, end)), max(start, end))
