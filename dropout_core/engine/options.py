"""The options of Monte Carlo passes: how many to run, from which seed, with which noise, and when to stop."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, Unpack, get_args

from dropout_core.errors import InvalidInput
from dropout_core.measures.tolerance import Tolerance, checked_tolerance
from dropout_core.noise.limits import BLOCK, MAX_SEED

Sampling = Literal["balanced", "iid"]
Sharing = Literal["shared", "independent"]
BRANCHES = (1, 2, 4, 8, 16)
DEFAULT_PASSES = 32
DEFAULT_MOST_PASSES = 1024


class PassOverrides(TypedDict, total=False):
    """Values that replace fields of `PassOptions`. An absent field, or None, keeps the default."""

    passes: int | None
    seed: int | None
    sampling: Sampling | None
    masks: Sharing | None
    branches: int | None
    tolerance: float | Tolerance | None
    min_passes: int | None


@dataclass(frozen=True)
class PassOptions:
    """The passes 0 … passes − 1 of a seed.

    Every surface (Python, HTTP, Open Inference, the command) offers these options, and takes their descriptions from
    the metadata of the fields.

    Attributes:
        passes: Number of passes; with a tolerance, the most that a row may take.
        seed: Decides every mask, from 0 to 2^63 − 1.
        sampling: "balanced" drops a unit ⌊16p⌋ or ⌈16p⌉ times in each block of 16 passes, which keeps the law of each
            pass and lowers the Monte Carlo error (`dropout_core.noise.balanced`). "iid" draws each pass on its own.
        masks: "shared" runs one sampled network per pass for all rows. "independent" gives each row its own masks,
            keyed by its place in the request.
        branches: Number of passes that share the noise of all sites but the last ones: 1, 2, 4, 8 or 16.
        tolerance: Standard errors at which a row stops, by measure: "mean" in the unit of the output,
            "mutual_information" in nats. None runs all passes.
        min_passes: Fewest passes of a row when there is a tolerance.

    Raises:
        InvalidInput: A value is not allowed, or two of them contradict each other.
    """

    passes: int = field(
        default=DEFAULT_PASSES,
        metadata={"description": "Number of stochastic passes; with a tolerance, the most a row may take."},
    )
    seed: int = field(default=0, metadata={"description": "Seed of the masks."})
    sampling: Sampling = field(
        default="balanced", metadata={"description": "How passes draw: balanced (smaller Monte Carlo error) or iid."}
    )
    masks: Sharing = field(
        default="shared", metadata={"description": "Whether the rows of a pass share one mask: shared or independent."}
    )
    branches: int = field(
        default=1, metadata={"description": "Number of passes that share the noise of all sites but the last ones."}
    )
    tolerance: Tolerance | None = field(
        default=None, metadata={"description": "Standard error at which a row stops taking passes."}
    )
    min_passes: int = field(
        default=2 * BLOCK, metadata={"description": "Fewest passes of a row when there is a tolerance."}
    )

    def __post_init__(self) -> None:
        for name, allowed in (("sampling", get_args(Sampling)), ("masks", get_args(Sharing))):
            if getattr(self, name) not in allowed:
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; choose {' or '.join(map(repr, allowed))}.")
        if self.branches not in BRANCHES:
            raise InvalidInput(f"branches is {self.branches}; choose {', '.join(map(str, BRANCHES))}.")
        if self.passes < 1:
            raise InvalidInput(f"passes is {self.passes}; at least 1 is needed.")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInput(f"the seed is {self.seed}; it must lie between 0 and 2^63 - 1.")
        if self.tolerance is not None:
            self._check_min_passes(self.tolerance)

    def _check_min_passes(self, tolerance: Tolerance) -> None:
        if not 2 <= self.min_passes <= self.passes:
            raise InvalidInput(
                f"min_passes is {self.min_passes} and passes {self.passes}; 2 ≤ min_passes ≤ passes is needed."
            )
        least = 2 * BLOCK * self.branches
        if ("mutual_information" in tolerance or self.branches > 1) and self.min_passes < least:
            raise InvalidInput(
                f"min_passes is {self.min_passes}; mutual information, and passes that branch, have a standard error "
                f"from {2 * BLOCK} passes on for each branch, which is {least}."
            )

    @property
    def noise_key(self) -> tuple[int, Sampling, Sharing, int]:
        """Everything besides the pass that decides its noise: seed, sampling, masks and branches."""
        return self.seed, self.sampling, self.masks, self.branches

    def overridden(self, **overrides: Unpack[PassOverrides]) -> "PassOptions":
        """Return these options with some fields replaced.

        Args:
            **overrides: New values; None keeps a field. A number as tolerance bounds the standard error of the mean.
                With a tolerance, `passes` is 1024 unless it is overridden, and `min_passes` is 32 per branch, or
                `passes` if that is less.

        Returns:
            The new options.

        Raises:
            InvalidInput: A value is not allowed, or `min_passes` is given without a tolerance.
        """
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
        tolerance = checked_tolerance(given.get("tolerance", self.tolerance))
        if tolerance is None:
            if "min_passes" in given:
                raise InvalidInput("min_passes belongs to a tolerance; give one, or leave it out.")
            return replace(self, **given)
        most = given.setdefault("passes", self.passes if self.tolerance is not None else DEFAULT_MOST_PASSES)
        branches = given.get("branches", self.branches)
        usual = self.min_passes if self.tolerance is not None else 2 * BLOCK * branches
        given.setdefault("min_passes", min(usual, most))
        return replace(self, **{**given, "tolerance": tolerance})
