"""Measures of predictive uncertainty, from moments over passes. Entropies are in nats.

An output kind says what a network's numbers are; it is named, never guessed from values. Each kind is one row of
KINDS: how one pass becomes named values whose moments are kept, and which measures can be read from those.

* logits, probabilities [T, B, C]: classification; with one column, that of the second of two classes;
* mean [T, B, C]: regression; mean_and_log_variance [T, B, 2C]: regression, all means first, then all log variances.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.mc.moments import Statistics

Task = Literal["classification", "regression"]
OutputKind = Literal["logits", "probabilities", "mean", "mean_and_log_variance"]
Measure = Callable[[Statistics], Tensor]


def _entropy(probs: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(probs)  # -p log p, and 0 at p = 0
    return terms.sum(-1)


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
_REGRESSION: dict[str, Measure] = {**_COMMON, "epistemic_variance": _epistemic_variance}


@dataclass(frozen=True)
class Kind:
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


def _from_mean(outputs: Tensor) -> Mapping[str, Tensor]:
    return {"value": outputs.double()}


def _from_mean_and_log_variance(outputs: Tensor) -> Mapping[str, Tensor]:
    if outputs.shape[-1] % 2:
        raise InvalidInput(
            f"the output has {outputs.shape[-1]} columns; mean_and_log_variance needs an even number: all means first, "
            "then all log variances."
        )
    mean, log_variance = outputs.double().chunk(2, dim=-1)
    return {"value": mean, "aleatoric": log_variance.exp()}


KINDS: Mapping[OutputKind, Kind] = {
    "logits": Kind("classification", _from_logits, _CLASSIFICATION),
    "probabilities": Kind("classification", _from_probabilities, _CLASSIFICATION),
    "mean": Kind("regression", _from_mean, _REGRESSION),
    "mean_and_log_variance": Kind(
        "regression", _from_mean_and_log_variance, {**_REGRESSION, "aleatoric_variance": _aleatoric_variance}
    ),
}


def kind_of(output: str) -> Kind:
    """The row of an output kind. Raises InvalidInput listing the kinds there are."""
    for name, kind in KINDS.items():
        if name == output:
            return kind
    raise InvalidInput(f"the output kind is {output!r}; choose one of {', '.join(KINDS)}.")
