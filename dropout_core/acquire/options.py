"""The options of a choice, validated before a network runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from dropout_core.acquire.constraints import Constraints, check_quotas, open_rows
from dropout_core.acquire.pointwise import Reduction, check_reduction
from dropout_core.acquire.vocabulary import (
    BOUND,
    EPIG,
    RANDOM,
    SCORES,
    THOMPSON,
    Score,
    default_score,
    exact_score,
    exact_selector,
)
from dropout_core.engine.options import Sharing
from dropout_core.errors import InvalidInput
from dropout_core.measures.measures import OutputKind, output_kind
from dropout_core.noise.limits import MAX_SEED

PREDICTED: Literal["predicted_class"] = "predicted_class"
_SPREADING = ("k_centre", "badge")
# of embeddings that are held at once: 100 MB of 512 numbers each
_MOST_EMBEDDINGS = 50_000
_LEAST_CANDIDATES = 1_000
_CANDIDATES_A_PICK = 20
# which selectors have a parameter
_TAKEN_BY = {
    "beta": ("power", "softmax", "softrank"),
    "candidates": ("batchbald", *_SPREADING),
    "num_samples": ("batchbald",),
}


@dataclass(frozen=True)
class RankOptions:
    """Options of a choice: which k rows of a pool to label next.

    Attributes:
        output: What the numbers of the network are.
        num_rows: Number of rows in the pool.
        k: Number of rows to choose.
        score: An exact name or an alias, stored as the exact name. None selects the default score; "k_centre" and
            "badge" do not have a score.
        selector: How rows are picked (see `select`). "batchbald" picks rows jointly, for the information of their
            labels about the passes or, with the score "epig", about the labels of targets.
        seed: Seed of every draw of the selector.
        beta: Sharpness of "power", "softmax" and "softrank".
        deviations: Standard deviations that "upper_confidence_bound" adds to the mean.
        candidates: Number of rows that "batchbald" considers, the best by score alone, or that "k_centre" and "badge"
            consider, drawn by the seed.
        num_samples: Number of label configurations of "batchbald".
        reduction: How several numbers of a row become one.
        fraction: The fraction of "top_fraction".
        exclude: Indices of rows that are never chosen.
        costs: Cost of each label, [B], above 0.
        groups: The group of each row, or "predicted_class".
        quotas: Most rows per group: one number, or one by group.
        num_labelled: Number of labelled rows that "k_centre" keeps away from.
        num_targets: Number of target rows of "epig".
        masks: Whether the rows share the masks of a pass.

    Raises:
        UnknownMeasure: The task does not have the score.
        InvalidInput: The options are invalid or contradict each other.
    """

    output: OutputKind
    num_rows: int
    k: int
    score: str | None = None
    selector: str = "top_k"
    seed: int = 0
    beta: float | None = None
    deviations: float | None = None
    candidates: int | None = None
    num_samples: int | None = None
    reduction: Reduction | None = None
    fraction: float | None = None
    exclude: Sequence[int] | Tensor = ()
    costs: Tensor | None = None
    groups: Sequence[Any] | Tensor | Literal["predicted_class"] | None = None
    quotas: Mapping[Any, int] | int | None = None
    num_labelled: int = 0
    num_targets: int = 0
    masks: Sharing = "shared"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InvalidInput(f"k is {self.k}; ask for at least 1 row.")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInput(f"the seed is {self.seed}; it must lie between 0 and 2^63 - 1.")
        exact_selector(self.selector)
        object.__setattr__(self, "score", self._checked_score())
        self._check_parameters()
        self._check_sizes()
        self._check_selector()
        self._check_company()
        self._check_limits()

    @property
    def limits(self) -> Constraints:
        """The limits of the choice, without the groups by predicted class, which are not known yet."""
        if self.by_class:
            return Constraints(self.exclude, self.costs)
        return Constraints(self.exclude, self.costs, self.groups, self.quotas)

    @property
    def by_class(self) -> bool:
        """Whether the quotas apply to the classes that the network predicts."""
        return isinstance(self.groups, str)

    @property
    def needs_equal_passes(self) -> bool:
        """Whether all rows must take the same passes, which excludes a tolerance and independent masks."""
        return self.selector == "batchbald" or self.score in (EPIG, THOMPSON)

    @property
    def of_score(self) -> Score | None:
        """The score, or None if the selector does not use one."""
        return None if self.score is None else SCORES[self.score]

    @property
    def most_candidates(self) -> int:
        """The largest number of rows that a selector with candidates considers."""
        if self.candidates is not None:
            return self.candidates
        if self.selector in _SPREADING:
            return max(_MOST_EMBEDDINGS, self.k)
        each = _CANDIDATES_A_PICK * self.k
        return each if self.score == EPIG else max(each, _LEAST_CANDIDATES)

    def check_tolerance(self, tolerance: object) -> None:
        """Refuse a tolerance where all rows need the same number of passes.

        Args:
            tolerance: The tolerance of the passes, or None.

        Raises:
            InvalidInput: There is a tolerance, and the selector or the score does not allow one.
        """
        if tolerance is not None and self.needs_equal_passes:
            raise InvalidInput(
                f"{self.score} of {self.selector} needs the same number of passes for every row, so it cannot be "
                "combined with a tolerance; leave tolerance out."
            )

    def open_rows(self) -> Tensor:
        """Return the rows that may be chosen, int64, ascending."""
        return open_rows(self.num_rows, self.exclude).nonzero()[:, 0]

    def _checked_score(self) -> str | None:
        if self.selector in _SPREADING:
            if self.score is not None:
                raise InvalidInput(f"{self.selector} picks without a score; leave {self.score!r} out.")
            return None
        if self.score is None:
            return EPIG if self.selector == "batchbald" and self.num_targets else default_score(self.output)
        return exact_score(self.score, self.output)

    def _check_parameters(self) -> None:
        for name, selectors in _TAKEN_BY.items():
            if getattr(self, name) is not None and self.selector not in selectors:
                raise InvalidInput(f"{name} belongs to {', '.join(selectors)}; {self.selector} has none. Leave it out.")
        if self.deviations is not None and self.score != BOUND:
            raise InvalidInput(f"deviations belong to the score {BOUND}; leave them out.")
        check_reduction(self.reduction or "mean", self.fraction)

    def _check_sizes(self) -> None:
        for name in ("beta", "deviations"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < math.inf:
                raise InvalidInput(f"{name} is {value}; a finite number of at least 0 is wanted.")
        if self.candidates is not None and self.candidates < self.k:
            raise InvalidInput(
                f"candidates is {self.candidates} with k = {self.k}; at least k rows must be considered."
            )
        if self.num_samples is not None and self.num_samples < 1:
            raise InvalidInput(f"num_samples is {self.num_samples}; at least 1 is wanted.")

    def _check_selector(self) -> None:
        """Check that the selector supports the task and the score."""
        task = output_kind(self.output).task
        if self.selector in ("badge", "batchbald") and task != "classification":
            raise InvalidInput(f"{self.selector} is of classes, one for each row; {self.output} is {task}.")
        if self.selector == "batchbald" and self.score not in ("mutual_information", EPIG):
            raise InvalidInput(
                f"batchbald picks by mutual_information, or with targets by epig, not by {self.score!r}."
            )
        if self.score == RANDOM and self.selector != "top_k":
            raise InvalidInput(f"random is a choice of its own; ask for it without {self.selector}.")
        if self.selector == "power" and self.of_score is not None and self.of_score.signed:
            raise InvalidInput(f"{self.score} can be below 0, and power needs scores of at least 0; choose softrank.")
        if self.masks != "shared" and self.needs_equal_passes:
            raise InvalidInput(
                "with masks of its own for each row a row and its copy look independent; "
                f"{self.score} of {self.selector} needs shared masks."
            )

    def _check_company(self) -> None:
        """Check that targets and labelled rows are present exactly where they are needed."""
        if self.score == EPIG and not self.num_targets:
            raise InvalidInput("epig asks about targets, inputs from where the model will be used; send some.")
        if self.num_targets and self.score != EPIG:
            raise InvalidInput(f"targets are for epig; {self.score or self.selector} takes none. Leave them out.")
        if self.num_labelled and self.selector != "k_centre":
            raise InvalidInput(f"labelled rows are for k_centre; {self.selector} takes none. Leave them out.")

    def _check_limits(self) -> None:
        if self.costs is not None and (self.selector in _SPREADING or self.score == RANDOM):
            raise InvalidInput(f"{self.score or self.selector} has no score that costs could divide; leave them out.")
        if self.costs is not None and self.of_score is not None and self.of_score.signed:
            raise InvalidInput(f"{self.score} can be below 0, and a score per cost cannot; leave the costs out.")
        self.limits.check(self.num_rows)
        if self.by_class:
            self._check_classes()

    def _check_classes(self) -> None:
        if self.groups != PREDICTED:
            raise InvalidInput(f"the groups are {self.groups!r}; give each row's, or {PREDICTED!r}.")
        if output_kind(self.output).task != "classification" or self.score == RANDOM:
            raise InvalidInput(
                f"a predicted class needs a classifier that is run; {self.score or self.selector} of {self.output} has "
                "none. Give each row's group."
            )
        if self.quotas is None:
            raise InvalidInput("there are groups and no quotas; give how many rows of each class there may be.")
        check_quotas(self.quotas)
