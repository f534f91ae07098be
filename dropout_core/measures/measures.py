"""Measures of predictive uncertainty, computed from moments over passes. Entropies are in nats.

An output kind says what a network's numbers are; it is named, never guessed from values. Each kind is a row of
`OUTPUT_KINDS`: which named values are taken from a pass and averaged, and which measures follow from their moments.

* logits, probabilities [T, B, C]: classification; a single column belongs to the second of two classes;
* multilabel_logits, multilabel_probabilities [T, B, C]: each of C labels is present or absent on its own;
* mean [T, B, C]: regression; mean_and_log_variance [T, B, 2C]: regression, all means first, then all log variances.

Between B and C there may be axes of positions, of an image or a text. Each position is measured like a row: what is
[B, C] below becomes [B, *P, C], and what is [B] becomes [B, *P].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.measures.moments import Statistics

Task = Literal["classification", "multilabel", "regression"]
OutputKind = Literal[
    "logits", "probabilities", "multilabel_logits", "multilabel_probabilities", "mean", "mean_and_log_variance"
]
Measure = Callable[[Statistics], Tensor]


def _entropy(probs: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(probs)  # -p log p, and 0 at p = 0
    return terms.sum(-1)


def _binary_entropies(probs: Tensor) -> Tensor:
    """Return the sum of the entropies of each label's two outcomes."""
    return _entropy(probs) + _entropy(1.0 - probs)


def _mean(s: Statistics) -> Tensor:
    """Return E[y] over passes, [B, C]."""
    return s["value"].mean


def _variance(s: Statistics) -> Tensor:
    """Return the population variance over passes, [B, C]; with a predicted variance, the law of total variance."""
    epistemic = s["value"].variance
    return epistemic + s["aleatoric"].mean if "aleatoric" in s else epistemic


def _std(s: Statistics) -> Tensor:
    """Return the square root of `variance`, [B, C]."""
    return _variance(s).sqrt()


def _predictive_entropy(s: Statistics) -> Tensor:
    """Return H[E p], [B], 0 … log C: total uncertainty (Gal, Islam, Ghahramani 2017, eq. 4)."""
    return _entropy(s["value"].mean)


def _expected_entropy(s: Statistics) -> Tensor:
    """Return E H[p], [B], 0 … log C: aleatoric uncertainty (Depeweg et al. 2018, eq. 2)."""
    return s["entropy"].mean


def _mutual_information(s: Statistics) -> Tensor:
    """Return H[E p] − E H[p], [B], at least 0: epistemic uncertainty, BALD (Houlsby et al. 2011, eq. 2)."""
    return (_predictive_entropy(s) - _expected_entropy(s)).clamp_min(0.0)


def _labels_predictive_entropy(s: Statistics) -> Tensor:
    """Return Σ_c H[E p_c], [B], 0 … C log 2: the total uncertainty of labels that are considered separately."""
    return _binary_entropies(s["value"].mean)


def _labels_mutual_information(s: Statistics) -> Tensor:
    """Return Σ_c H[E p_c] − E H[p_c], [B], at least 0: epistemic uncertainty, BALD summed over labels.

    Given the weights, labels are independent, so their expected entropies add up exactly. What they share through the
    weights is counted once for each label, so the sum is an upper bound of the joint information (Houlsby et al. 2011,
    eq. 2, for each label).
    """
    return (_labels_predictive_entropy(s) - _expected_entropy(s)).clamp_min(0.0)


def _labels_least_confidence(s: Statistics) -> Tensor:
    """Return max_c 1 − max(E p_c, 1 − E p_c), [B], 0 … 0.5: that of the least certain label."""
    mean = s["value"].mean
    return torch.minimum(mean, 1.0 - mean).amax(-1)


def _least_confidence(s: Statistics) -> Tensor:
    """Return 1 − max E p, [B] (Settles 2009, section 3.1)."""
    return 1.0 - s["value"].mean.amax(-1)


def _margin(s: Statistics) -> Tensor:
    """Return the largest minus the second largest E p, [B]; small is uncertain (Scheffer et al. 2001)."""
    top = s["value"].mean.topk(min(2, s["value"].mean.shape[-1]), dim=-1).values
    return top[..., 0] - top[..., 1] if top.shape[-1] == 2 else top[..., 0]


def _vote_variation_ratio(s: Statistics) -> Tensor:
    """Return 1 − the share of passes that vote for the most voted class, [B] (Freeman 1965; Gal 2016, eq. 3.19)."""
    return 1.0 - s["vote"].mean.amax(-1)


def _epistemic_variance(s: Statistics) -> Tensor:
    """Return the variance over passes of the predicted mean, [B, C] (Kendall, Gal 2017, eq. 9, first part)."""
    return s["value"].variance


def _aleatoric_variance(s: Statistics) -> Tensor:
    """Return the mean over passes of the predicted variance, [B, C] (Kendall, Gal 2017, eq. 9, second part)."""
    return s["aleatoric"].mean


def _gaussian_mutual_information(s: Statistics) -> Tensor:
    """Return ½ log(Var μ + E σ²) − ½ E log σ², [B, C], at least 0, in nats: epistemic uncertainty of each output, BALD.

    The mixture over passes is replaced by the Gaussian with its moments, which gives an upper bound. The value has no
    unit: scaling an output does not change it (Houlsby et al. 2011, eq. 2; Kirsch 2023, arXiv 2302.08981, section 3).
    """
    return (0.5 * (_variance(s).log() - s["log_aleatoric"].mean)).clamp_min(0.0)


_COMMON: dict[str, Measure] = {"mean": _mean, "variance": _variance, "std": _std}
_CLASSIFICATION: dict[str, Measure] = {
    **_COMMON,
    "predictive_entropy": _predictive_entropy,
    "expected_entropy": _expected_entropy,
    "mutual_information": _mutual_information,
    "least_confidence": _least_confidence,
    "margin": _margin,
    "vote_variation_ratio": _vote_variation_ratio,
}
_MULTILABEL: dict[str, Measure] = {
    **_COMMON,
    "predictive_entropy": _labels_predictive_entropy,
    "expected_entropy": _expected_entropy,
    "mutual_information": _labels_mutual_information,
    "least_confidence": _labels_least_confidence,
}
_REGRESSION: dict[str, Measure] = {**_COMMON, "epistemic_variance": _epistemic_variance}


@dataclass(frozen=True)
class OutputMeasures:
    """What a network's numbers are, and how they are measured.

    Attributes:
        task: The task.
        values: Maps one chunk of passes [t, b, …] to the named values whose moments are kept.
        measures: The measures, by name.
    """

    task: Task
    values: Callable[[Tensor], Mapping[str, Tensor]]
    measures: Mapping[str, Measure]


def _from_logits(outputs: Tensor) -> Mapping[str, Tensor]:
    columns = outputs.double()
    if columns.shape[-1] == 1:
        return _class_values(torch.cat([torch.sigmoid(-columns), torch.sigmoid(columns)], dim=-1))
    return _class_values(torch.softmax(columns, dim=-1))


def _from_probabilities(outputs: Tensor) -> Mapping[str, Tensor]:
    columns = outputs.double()
    return _class_values(torch.cat([1.0 - columns, columns], dim=-1) if columns.shape[-1] == 1 else columns)


def _class_values(probs: Tensor) -> Mapping[str, Tensor]:
    votes = torch.nn.functional.one_hot(probs.argmax(-1), probs.shape[-1])
    return {
        "value": probs,
        "entropy": _entropy(probs),
        "vote": torch.where(probs.isnan(), probs, votes),
    }


def _from_label_logits(outputs: Tensor) -> Mapping[str, Tensor]:
    return _from_label_probabilities(torch.sigmoid(outputs.double()))


def _from_label_probabilities(outputs: Tensor) -> Mapping[str, Tensor]:
    probs = outputs.double()
    return {"value": probs, "entropy": _binary_entropies(probs)}


def _from_mean(outputs: Tensor) -> Mapping[str, Tensor]:
    return {"value": outputs.double()}


def _from_mean_and_log_variance(outputs: Tensor) -> Mapping[str, Tensor]:
    if outputs.shape[-1] % 2:
        raise InvalidInput(
            f"the output has {outputs.shape[-1]} columns; mean_and_log_variance needs an even number: all means first, "
            "then all log variances."
        )
    mean, log_variance = outputs.double().chunk(2, dim=-1)
    return {"value": mean, "aleatoric": log_variance.exp(), "log_aleatoric": log_variance}


OUTPUT_KINDS: Mapping[OutputKind, OutputMeasures] = {
    "logits": OutputMeasures("classification", _from_logits, _CLASSIFICATION),
    "probabilities": OutputMeasures("classification", _from_probabilities, _CLASSIFICATION),
    "multilabel_logits": OutputMeasures("multilabel", _from_label_logits, _MULTILABEL),
    "multilabel_probabilities": OutputMeasures("multilabel", _from_label_probabilities, _MULTILABEL),
    "mean": OutputMeasures("regression", _from_mean, _REGRESSION),
    "mean_and_log_variance": OutputMeasures(
        "regression",
        _from_mean_and_log_variance,
        {
            **_REGRESSION,
            "aleatoric_variance": _aleatoric_variance,
            "gaussian_mutual_information": _gaussian_mutual_information,
        },
    ),
}


def output_kind(output: str) -> OutputMeasures:
    """Return the row of an output kind.

    Args:
        output: Name of the kind.

    Returns:
        Its row of `OUTPUT_KINDS`.

    Raises:
        InvalidInput: There is no such kind; the message lists all of them.
    """
    for name, kind in OUTPUT_KINDS.items():
        if name == output:
            return kind
    raise InvalidInput(f"the output kind is {output!r}; choose one of {', '.join(OUTPUT_KINDS)}.")
