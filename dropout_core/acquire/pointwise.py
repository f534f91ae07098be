"""Scores of one row at a time, as functions of samples: every function here is larger where to label first.

Any array of Monte Carlo passes will do; nothing here knows of a network. Classification takes class probabilities
[T, B, …, C], T at least 1, one column being that of the second of two classes. Regression takes predicted means, and
where there are any the predicted variances, [T, B, …]. The axes between stay: one score for each position or output,
[B, …], that `reduce` makes one for each row. Sums are float64, entropies are in nats, and NaN stays NaN.

Every function raises InvalidInput for a shape or a value that cannot be what it is said to be.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.measures.measures import output_kind
from dropout_core.measures.moments import Moments, moments_of
from dropout_core.noise.philox import words

Reduction = Literal["mean", "max", "top_fraction"]

# a counter site of its own: a network's sites count from 0
_PASS_SITE = 2**32 - 4
# what a sum of float16 or bfloat16 probabilities can miss 1 by
_SUM_TOLERANCE = 0.02


def predictive_entropy(probs: Tensor) -> Tensor:
    """H[E p], 0 … log C: total uncertainty. Source: Gal, Islam, Ghahramani 2017, arXiv 1703.02910, eq. 4."""
    return _class_measure("predictive_entropy", probs)


def expected_entropy(probs: Tensor) -> Tensor:
    """E H[p], 0 … log C: aleatoric uncertainty, which more labels do not lower. Source: Depeweg et al. 2018, eq. 2."""
    return _class_measure("expected_entropy", probs)


def mutual_information(probs: Tensor) -> Tensor:
    """BALD: H[E p] − E H[p], 0 … log min(C, T): epistemic uncertainty. Source: Houlsby et al. 2011, arXiv 1112.5745."""
    return _class_measure("mutual_information", probs)


def least_confidence(probs: Tensor) -> Tensor:
    """1 − max E p, 0 … 1 − 1/C. Source: Settles 2009, section 3.1. Some papers call it variation ratio."""
    return _class_measure("least_confidence", probs)


def margin(probs: Tensor) -> Tensor:
    """The second largest E p less the largest, −1 … 0: the margin with its sign turned, so that larger is first.

    Source: Scheffer, Decomain, Wrobel 2001.
    """
    return -_class_measure("margin", probs)


def vote_variation_ratio(probs: Tensor) -> Tensor:
    """1 − the share of passes that vote for the most voted class, 0 … 1 − 1/C. Source: Freeman 1965."""
    return _class_measure("vote_variation_ratio", probs)


def mean_std(probs: Tensor) -> Tensor:
    """The mean over classes of the standard deviation over passes, 0 … ½. Source: Kampffmeyer et al. 2016."""
    return _class_measure("std", probs).mean(-1)


def variance(means: Tensor, variances: Tensor | None = None) -> Tensor:
    """Var μ, or with predicted variances Var μ + E σ²: total variance. Source: Kendall, Gal 2017, eq. 9."""
    statistics = {"value": _moments(means)}
    if variances is not None:
        statistics["aleatoric"] = _variance_moments(means, variances)
    return output_kind("mean").measures["variance"](statistics)


def epistemic_variance(means: Tensor) -> Tensor:
    """Var μ over passes, the population's: what more labels lower. Source: Kendall, Gal 2017, arXiv 1703.04977."""
    return output_kind("mean").measures["epistemic_variance"]({"value": _moments(means)})


def gaussian_mutual_information(means: Tensor, variances: Tensor) -> Tensor:
    """BALD of regression: ½ log(Var μ + E σ²) − ½ E log σ², at least 0, in nats.

    The mixture over passes is taken for the Gaussian of its moments, the widest law with them: an upper bound of the
    mutual information. variances: above 0. Source: Houlsby et al. 2011, arXiv 1112.5745; Kirsch 2023, arXiv 2302.08981.
    """
    if (variances == 0).any():
        raise InvalidInput("a predicted variance is 0, of which there is no logarithm; variances above 0 are wanted.")
    statistics = {"value": _moments(means), "aleatoric": _variance_moments(means, variances)}
    statistics["log_aleatoric"] = Moments.of(variances.double().log())
    return output_kind("mean_and_log_variance").measures["gaussian_mutual_information"](statistics)


def upper_confidence_bound(means: Tensor, beta: float) -> Tensor:
    """E μ + beta · std μ over passes: where a large answer is likely or still possible.

    beta: at least 0, in standard deviations. To look for small answers, hand in −means. Source: Auer 2002;
    Srinivas et al. 2010, arXiv 0912.3995, eq. 6, whose β is the square of this one.
    """
    if not 0.0 <= beta < math.inf:
        raise InvalidInput(f"beta is {beta}; a finite number of at least 0 is wanted.")
    moments = _moments(means)
    return moments.mean + beta * moments.variance.sqrt()


def thompson(means: Tensor, seed: int) -> Tensor:
    """One pass, drawn by the seed, and the same for every row: what one sample of the posterior believes.

    The passes must share their noise over rows. Each step of a campaign wants a seed of its own. Source: Thompson 1933;
    Gal, Ghahramani 2016, arXiv 1506.02142, section 5.5.
    """
    _checked_samples(means, 2, "[T, B, …]")
    word = words(seed, _PASS_SITE, torch.zeros(1, dtype=torch.int64), (1,))
    return means[int(word.item()) * len(means) >> 32].double()


def reduce(values: Tensor, how: Reduction = "mean", fraction: float | None = None) -> Tensor:
    """One score for each row, [B], of scores [B, …] of positions or outputs.

    how: mean, over all of them, hides a small uncertain region; max, the largest, follows a single outlier;
    top_fraction, the mean of the largest `fraction` of them, above 0 and at most 1, rounded up to a whole number.
    """
    if values.dim() < 1 or 0 in values.shape[1:]:
        raise InvalidInput(f"the scores have shape {list(values.shape)}; [B, …] with something to reduce is wanted.")
    check_reduction(how, fraction)
    flat = values.double().reshape(len(values), math.prod(values.shape[1:]))
    reductions: dict[str, Callable[[], Tensor]] = {
        "mean": lambda: flat.mean(-1),
        "max": lambda: flat.amax(-1),
        "top_fraction": lambda: flat.topk(_share(flat.shape[-1], fraction or 1.0), dim=-1).values.mean(-1),
    }
    return reductions[how]()


def check_reduction(how: str, fraction: float | None) -> None:
    """Refuse what is no reduction, and a fraction that is none of the reduction's."""
    if how not in get_args(Reduction):
        raise InvalidInput(f"there is no reduction {how!r}; there are {', '.join(get_args(Reduction))}.")
    if (how == "top_fraction") != (fraction is not None):
        raise InvalidInput(
            f"the reduction is {how!r} and the fraction {fraction}; top_fraction, and no other, has one."
        )
    if fraction is not None and not 0.0 < fraction <= 1.0:
        raise InvalidInput(f"the fraction is {fraction}; a number above 0 and at most 1 is wanted.")


def _share(count: int, fraction: float) -> int:
    # rounded first: 0.07 · 100 is 7.000000000000001, and means 7
    return max(1, math.ceil(round(fraction * count, 6)))


def _class_measure(name: str, probs: Tensor) -> Tensor:
    _checked_samples(probs, 3, "[T, B, …, C]")
    if ((probs < 0) | (probs > 1)).any():
        raise InvalidInput("a probability lies outside 0 … 1; probabilities, not logits, are wanted.")
    if probs.shape[-1] > 1 and ((probs.double().sum(-1) - 1.0).abs() > _SUM_TOLERANCE).any():
        raise InvalidInput("the probabilities of a row do not sum to 1; those of all classes are wanted.")
    kind = output_kind("probabilities")
    return kind.measures[name](moments_of(kind.values(probs)))


def _moments(means: Tensor) -> Moments:
    _checked_samples(means, 2, "[T, B, …]")
    return Moments.of(means)


def _variance_moments(means: Tensor, variances: Tensor) -> Moments:
    if variances.shape != means.shape:
        raise InvalidInput(
            f"the variances have shape {list(variances.shape)}; that of the means, {list(means.shape)}, is wanted."
        )
    if (variances < 0).any():
        raise InvalidInput("a predicted variance is below 0; variances, not their logarithms, are wanted.")
    return Moments.of(variances)


def _checked_samples(samples: Tensor, ranks: int, wanted: str) -> None:
    if samples.dim() < ranks or len(samples) == 0 or (ranks == 3 and samples.shape[-1] == 0):
        raise InvalidInput(f"the samples have shape {list(samples.shape)}; {wanted} with at least one pass is wanted.")
