"""Which passes are run: how many, of which seed, with what noise, and when a row has enough of them."""

from dataclasses import dataclass, field

from dropout_core.engine.scheme import Scheme
from dropout_core.errors import InvalidInput
from dropout_core.measures.precision import Tolerance, checked_tolerance
from dropout_core.noise.balanced import BLOCK
from dropout_core.noise.philox import MAX_SEED

DEFAULT_PASSES = 32
DEFAULT_MOST_PASSES = 1024


@dataclass(frozen=True)
class Plan:
    """The passes 0 … T − 1 of a seed.

    passes: T, or the most that a row may take where there is a tolerance. tolerance: a row stops after a block of 16
    passes when the standard error of every named measure ("mean" in the unit of the output, "mutual_information" in
    nats) is at most so much, but not before min_passes. Raises InvalidInput for what cannot be.
    """

    passes: int = DEFAULT_PASSES
    seed: int = 0
    scheme: Scheme = field(default_factory=Scheme)
    tolerance: Tolerance | None = None
    min_passes: int = 2 * BLOCK

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise InvalidInput(f"passes is {self.passes}; at least 1 is needed.")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInput(f"the seed is {self.seed}; it must lie between 0 and 2^63 - 1.")
        if self.tolerance is None:
            return
        if not 2 <= self.min_passes <= self.passes:
            raise InvalidInput(
                f"min_passes is {self.min_passes} and passes {self.passes}; 2 ≤ min_passes ≤ passes is needed."
            )
        least = 2 * BLOCK * self.scheme.branches
        if ("mutual_information" in self.tolerance or self.scheme.branches > 1) and self.min_passes < least:
            raise InvalidInput(
                f"min_passes is {self.min_passes}; mutual information, and passes that branch, have a standard error "
                f"from {2 * BLOCK} passes on for each branch, which is {least}."
            )


def plan_of(
    passes: int | None,
    seed: int,
    scheme: Scheme,
    tolerance: float | Tolerance | None = None,
    min_passes: int | None = None,
) -> Plan:
    """A Plan from what callers give. passes: None for the usual number, which is a bound where there is a tolerance.

    tolerance: a number stands for that of the mean.
    """
    checked = checked_tolerance(tolerance)
    if checked is None and min_passes is not None:
        raise InvalidInput("min_passes belongs to a tolerance; give one, or leave it out.")
    usual = DEFAULT_PASSES if checked is None else DEFAULT_MOST_PASSES
    most = usual if passes is None else passes
    least = min(2 * BLOCK * scheme.branches, most) if min_passes is None else min_passes
    return Plan(most, seed, scheme, checked, least)
