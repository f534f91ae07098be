"""The names of scores and selectors, and what each of them needs.

A score is computed from measures of an Estimate. This table says which tasks have it and which direction means label
sooner. Ambiguous names are refused, and the error lists the exact ones.
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
    """A score: one number per row and output, in its usual sign.

    Attributes:
        tasks: The tasks that have this score.
        measures: The measures that it is computed from.
        made: Computes the score [B, …] from measures by name and a number of deviations; None if the score is a
            measure.
        sign: 1 if larger values should be labelled first, −1 if smaller ones should.
        signed: Whether the score can be below 0.
    """

    tasks: frozenset[Task]
    measures: tuple[str, ...] = ()
    made: Callable[[Arrays, float], Tensor] | None = None
    sign: int = 1
    signed: bool = False

    def of(self, arrays: Arrays, deviations: float) -> Tensor:
        """Compute the score from measures.

        Args:
            arrays: Measures by name, [B, …].
            deviations: Number of standard deviations that a bound adds.

        Returns:
            The score, [B, …].
        """
        return arrays[self.measures[0]] if self.made is None else self.made(arrays, deviations)

    def urgency(self, values: Tensor) -> Tensor:
        """Orient values so that larger means label sooner.

        Args:
            values: Values of this score.

        Returns:
            Urgencies, at least 0 unless the score is signed.
        """
        return values if self.sign > 0 else 1.0 - values

    def own(self, urgency: Tensor) -> Tensor:
        """Invert `urgency`.

        Args:
            urgency: Urgencies.

        Returns:
            Values in the usual sign of the score.
        """
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
    """Return the names of the scores that an output kind has.

    Args:
        output: The output kind.

    Returns:
        Exact names.
    """
    kind = output_kind(output)
    return tuple(
        name for name, score in SCORES.items() if kind.task in score.tasks and set(score.measures) <= set(kind.measures)
    )


def parts_of(output: OutputKind) -> tuple[str, ...]:
    """Return the measures that decompose uncertainty: the total, the aleatoric and the epistemic part.

    Args:
        output: The output kind.

    Returns:
        Names of measures.
    """
    kind = output_kind(output)
    return tuple(name for name in _PARTS[kind.task] if name in kind.measures)


def default_score(output: OutputKind) -> str:
    """Return the default score of an output kind: the variance for regression, otherwise mutual information.

    Args:
        output: The output kind.

    Returns:
        An exact name.
    """
    return "variance" if output_kind(output).task == "regression" else "mutual_information"


def exact_score(name: str, output: OutputKind) -> str:
    """Return the exact name of a score.

    Args:
        name: An exact name or an alias.
        output: The output kind.

    Returns:
        The exact name.

    Raises:
        UnknownMeasure: The output kind does not have this score, or the name is ambiguous.
    """
    exact, known = ALIASES.get(name, name), scores_of(output)
    if exact in known:
        return exact
    means = f"; it may mean {_AMBIGUOUS[name]}" if name in _AMBIGUOUS else ""
    raise UnknownMeasure(
        f"there is no score {name!r} for {output_kind(output).task} from {output}{means}. There are {', '.join(known)}."
    )


def exact_selector(name: str) -> Selector:
    """Return a selector by its name.

    Args:
        name: Name of the selector.

    Returns:
        The selector.

    Raises:
        InvalidInput: There is no such selector.
    """
    for selector in SELECTORS:
        if selector == name:
            return selector
    raise InvalidInput(f"there is no selector {name!r}; there are {', '.join(SELECTORS)}.")


def predicted_classes(mean: Tensor) -> Tensor:
    """Return the most probable class of each row.

    Args:
        mean: Mean class probabilities, [B, C].

    Returns:
        Classes, int64 [B].

    Raises:
        InvalidInput: A row has several classes.
    """
    if mean.dim() != 2:
        raise InvalidInput(
            f"the rows have shape {list(mean.shape[1:])} of classes; quotas by class need one class each."
        )
    return mean.argmax(-1).to(torch.int64)
