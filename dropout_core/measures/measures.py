"""Measures of predictive uncertainty, from moments over passes. Entropies are in nats.

An output kind says what a network's numbers are; it is named, never guessed from values. Each kind is one row of
KINDS: how one pass becomes named values whose moments are kept, and which measures can be read from those.

* logits, probabilities [T, B, C]: classification; with one column, that of the second of two classes;
* multilabel_logits, multilabel_probabilities [T, B, C]: each of C labels is there or not, whatever the others are;
* mean [T, B, C]: regression; mean_and_log_variance [T, B, 2C]: regression, all means first, then all log variances.

Between B and C there may be axes of positions, of an image or a text. Each is measured like a row of its own: what is
[B, C] below is [B, *P, C] then, and what is [B] is [B, *P].
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
    """The sum of the entropies of each label's two outcomes."""
    return _entropy(probs) + _entropy(1.0 - probs)


def _mean(s: Statistics) -> Tensor:
    """E[y] over passes, [B, C]."""
    return s["value"].mean


def _variance(s: Statistics) -> Tensor:
    """Population variance over passes, [B, C]; with a predicted variance, the law of total variance."""
    epistemic = s["value"].variance
    return epistemic + s["aleatoric"].mean if "aleatoric" in s else epistemic


def _std(s: Statistics) -> Tensor:
    """The square root of `variance`, [B, C]."""
    return _variance(s).sqrt()


def _predictive_entropy(s: Statistics) -> Tensor:
    """H[E p], [B], 0 … log C: total uncertainty. Source: Gal, Islam, Ghahramani 2017, eq. 4."""
    return _entropy(s["value"].mean)


def _expected_entropy(s: Statistics) -> Tensor:
    """E H[p], [B], 0 … log C: aleatoric uncertainty. Source: Depeweg et al. 2018, eq. 2."""
    return s["entropy"].mean


def _mutual_information(s: Statistics) -> Tensor:
    """H[E p] − E H[p], [B], at least 0: epistemic uncertainty, BALD. Source: Houlsby et al. 2011, eq. 2."""
    return (_predictive_entropy(s) - _expected_entropy(s)).clamp_min(0.0)


def _labels_predictive_entropy(s: Statistics) -> Tensor:
    """Σ_c H[E p_c], [B], 0 … C log 2: the labels' total uncertainty, as if each were asked for on its own."""
    return _binary_entropies(s["value"].mean)


def _labels_mutual_information(s: Statistics) -> Tensor:
    """Σ_c H[E p_c] − E H[p_c], [B], at least 0: epistemic uncertainty, BALD summed over labels.

    Given the weights the labels are independent, so their expected entropies add up exactly; what they have in common
    through the weights is counted once for each label: an upper bound of the joint information. Source: Houlsby et al.
    2011, eq. 2, for each label.
    """
    return (_labels_predictive_entropy(s) - _expected_entropy(s)).clamp_min(0.0)


def _labels_least_confidence(s: Statistics) -> Tensor:
    """max_c 1 − max(E p_c, 1 − E p_c), [B], 0 … 0.5: of the label that is least sure."""
    mean = s["value"].mean
    return torch.minimum(mean, 1.0 - mean).amax(-1)


def _least_confidence(s: Statistics) -> Tensor:
    """1 − max E p, [B]. Source: Settles 2009, section 3.1."""
    return 1.0 - s["value"].mean.amax(-1)


def _margin(s: Statistics) -> Tensor:
    """The largest E p less the second largest, [B]; small is uncertain. Source: Scheffer et al. 2001."""
    top = s["value"].mean.topk(min(2, s["value"].mean.shape[-1]), dim=-1).values
    return top[..., 0] - top[..., 1] if top.shape[-1] == 2 else top[..., 0]


def _vote_variation_ratio(s: Statistics) -> Tensor:
    """1 − the share of passes that vote for the most voted class, [B]. Source: Freeman 1965; Gal 2016, eq. 3.19."""
    return 1.0 - s["vote"].mean.amax(-1)


def _epistemic_variance(s: Statistics) -> Tensor:
    """Variance over passes of the predicted mean, [B, C]. Source: Kendall, Gal 2017, eq. 9, first part."""
    return s["value"].variance


def _aleatoric_variance(s: Statistics) -> Tensor:
    """Mean over passes of the predicted variance, [B, C]. Source: Kendall, Gal 2017, eq. 9, second part."""
    return s["aleatoric"].mean


def _gaussian_mutual_information(s: Statistics) -> Tensor:
    """½ log(Var μ + E σ²) − ½ E log σ², [B, C], at least 0, nats: epistemic uncertainty of each output, BALD.

    The mixture over passes is taken for the Gaussian of its moments: an upper bound. It has no unit: scaling an output
    changes nothing. Source: Houlsby et al. 2011, eq. 2; Kirsch 2023 (arXiv 2302.08981), section 3.
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
    """What a network's numbers are. `values`: one chunk of passes [t, b, …] to the named values kept."""

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
    """The row of an output kind. Raises InvalidInput listing the kinds there are."""
    for name, kind in OUTPUT_KINDS.items():
        if name == output:
            return kind
    raise InvalidInput(f"the output kind is {output!r}; choose one of {', '.join(OUTPUT_KINDS)}.")
