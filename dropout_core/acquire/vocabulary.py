"""The names a choice is asked for by: scores, selectors, and what each of them needs.

A score is made of measures of an Estimate; here is which tasks have it and what makes it larger where to label first.
Ambiguous names are refused with the exact ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.measures.measures import OutputKind, Task, output_kind

RANDOM, EPIG, THOMPSON, BOUND = "random", "epig", "thompson", "upper_confidence_bound"
Selector = Literal["top_k", "power", "softmax", "softrank", "k_centre", "badge", "batchbald"]
SELECTORS: tuple[Selector, ...] = get_args(Selector)

Arrays = Mapping[str, Tensor]


@dataclass(frozen=True)
class Score:
    """One number a row and output, in its own sign.

    tasks: that have it. measures: it is made of. made: of those by name, and of how many deviations a bound is up, to
    [B, …]. sign: that of a larger score where to label first. signed: whether it can be below 0.
    """

    tasks: frozenset[Task]
    measures: tuple[str, ...] = ()
    made: Callable[[Arrays, float], Tensor] | None = None
    sign: int = 1
    signed: bool = False

    def of(self, arrays: Arrays, deviations: float) -> Tensor:
        """The score [B, …] of measures by name."""
        return arrays[self.measures[0]] if self.made is None else self.made(arrays, deviations)

    def urgency(self, values: Tensor) -> Tensor:
        """Values made larger where to label first; at least 0, unless the score is signed."""
        return values if self.sign > 0 else 1.0 - values

    def own(self, urgency: Tensor) -> Tensor:
        """The values that have an urgency."""
        return urgency if self.sign > 0 else 1.0 - urgency


def _mean_over_classes(arrays: Arrays, _: float) -> Tensor:
    return arrays["std"].mean(-1)


def _bound(arrays: Arrays, deviations: float) -> Tensor:
    return arrays["mean"] + deviations * arrays["epistemic_variance"].sqrt()


_CLASSES: frozenset[Task] = frozenset({"classification"})
_LABELS: frozenset[Task] = frozenset({"classification", "multilabel"})
_TARGETS: frozenset[Task] = frozenset({"regression"})
_ALL = _LABELS | _TARGETS


def _measure(tasks: frozenset[Task], name: str, sign: int = 1) -> Score:
    return Score(tasks, (name,), sign=sign)


SCORES: Mapping[str, Score] = {
    "mutual_information": _measure(_LABELS, "mutual_information"),
    "predictive_entropy": _measure(_LABELS, "predictive_entropy"),
    "expected_entropy": _measure(_LABELS, "expected_entropy"),
    "least_confidence": _measure(_LABELS, "least_confidence"),
    "margin": _measure(_CLASSES, "margin", sign=-1),
    "vote_variation_ratio": _measure(_CLASSES, "vote_variation_ratio"),
    "mean_std": Score(_LABELS, ("std",), _mean_over_classes),
    "variance": _measure(_ALL, "variance"),
    "epistemic_variance": _measure(_TARGETS, "epistemic_variance"),
    "gaussian_mutual_information": _measure(_TARGETS, "gaussian_mutual_information"),
    BOUND: Score(_TARGETS, ("mean", "epistemic_variance"), _bound, signed=True),
    THOMPSON: Score(_TARGETS, ("mean",), signed=True),
    EPIG: Score(_CLASSES),
    RANDOM: Score(_ALL),
}
ALIASES: Mapping[str, str] = {"bald": "mutual_information", "entropy": "predictive_entropy"}
# names that papers and libraries use for more than one number
_AMBIGUOUS: Mapping[str, str] = {
    "variation_ratio": "least_confidence, 1 − max E p, or vote_variation_ratio, 1 − the share of the most voted class",
    "uncertainty": "predictive_entropy, the total, mutual_information, what more labels lower, or expected_entropy",
    "confidence": "least_confidence, 1 − max E p, or margin",
    "std": "mean_std, over classes, or variance, over outputs",
}
_PARTS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("predictive_entropy", "expected_entropy", "mutual_information", "margin"),
    "multilabel": ("predictive_entropy", "expected_entropy", "mutual_information"),
    "regression": ("variance", "epistemic_variance", "aleatoric_variance"),
}


def scores_of(output: OutputKind) -> tuple[str, ...]:
    """The names of the scores an output kind has."""
    kind = output_kind(output)
    return tuple(
        name for name, score in SCORES.items() if kind.task in score.tasks and set(score.measures) <= set(kind.measures)
    )


def parts_of(output: OutputKind) -> tuple[str, ...]:
    """The measures that say what a row's uncertainty is made of: the total, its aleatoric and its epistemic part."""
    kind = output_kind(output)
    return tuple(name for name in _PARTS[kind.task] if name in kind.measures)


def default_score(output: OutputKind) -> str:
    """The score where none is named: mutual information, or for regression the variance."""
    return "variance" if output_kind(output).task == "regression" else "mutual_information"


def exact_score(name: str, output: OutputKind) -> str:
    """The exact name of a score, also of an alias. Raises UnknownMeasure, listing the scores of the output kind."""
    exact, known = ALIASES.get(name, name), scores_of(output)
    if exact in known:
        return exact
    means = f"; it may mean {_AMBIGUOUS[name]}" if name in _AMBIGUOUS else ""
    raise UnknownMeasure(
        f"there is no score {name!r} for {output_kind(output).task} from {output}{means}. There are {', '.join(known)}."
    )


def exact_selector(name: str) -> Selector:
    """A selector by its name. Raises InvalidInput, listing those there are."""
    for selector in SELECTORS:
        if selector == name:
            return selector
    raise InvalidInput(f"there is no selector {name!r}; there are {', '.join(SELECTORS)}.")


def predicted_classes(mean: Tensor) -> Tensor:
    """The most probable class of each row, int64 [B]. mean: E p, [B, C]."""
    if mean.dim() != 2:
        raise InvalidInput(
            f"the rows have shape {list(mean.shape[1:])} of classes; quotas by class need one class each."
        )
    return mean.argmax(-1).to(torch.int64)
