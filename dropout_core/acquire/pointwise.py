"""Scores of single rows, as functions of Monte Carlo samples; a larger score means label the row sooner.

The functions take any array of passes and do not need a network. Classification takes class probabilities
[T, B, …, C] with T at least 1; a single column is the probability of the second of two classes. Regression takes
predicted means [T, B, …] and, where the network predicts them, variances of the same shape. The axes between are kept:
the result has one score per position or output, [B, …], and `reduce` turns them into one score per row. Sums are
float64, entropies are in nats, and NaN stays NaN.

Every function raises InvalidInput if a shape or a value does not fit its argument.
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
    """Return the entropy of the mean prediction, H[E p]: the total uncertainty.

    Args:
        probs: Class probabilities of each pass, [T, B, …, C].

    Returns:
        Entropies in nats, [B, …], between 0 and log C.

    References:
        Gal, Islam, Ghahramani 2017, arXiv 1703.02910, eq. 4.
    """
    return _class_measure("predictive_entropy", probs)


def expected_entropy(probs: Tensor) -> Tensor:
    """Return the mean entropy of the passes, E H[p]: aleatoric uncertainty, which more labels do not lower.

    Args:
        probs: Class probabilities of each pass, [T, B, …, C].

    Returns:
        Entropies in nats, [B, …], between 0 and log C.

    References:
        Depeweg et al. 2018, eq. 2.
    """
    return _class_measure("expected_entropy", probs)


def mutual_information(probs: Tensor) -> Tensor:
    """Return the BALD score, H[E p] − E H[p]: epistemic uncertainty.

    Args:
        probs: Class probabilities of each pass, [T, B, …, C].

    Returns:
        Mutual information in nats, [B, …], between 0 and log min(C, T).

    References:
        Houlsby et al. 2011, arXiv 1112.5745.
    """
    return _class_measure("mutual_information", probs)


def least_confidence(probs: Tensor) -> Tensor:
    """Return 1 − max E p. Some papers call it the variation ratio.

    Args:
        probs: Class probabilities of each pass, [T, B, …, C].

    Returns:
        Scores, [B, …], between 0 and 1 − 1/C.

    References:
        Settles 2009, section 3.1.
    """
    return _class_measure("least_confidence", probs)


def margin(probs: Tensor) -> Tensor:
    """Return the negative margin: the second largest E p minus the largest.

    Args:
        probs: Class probabilities of each pass, [T, B, …, C].

    Returns:
        Scores, [B, …], between −1 and 0. The sign is reversed so that a larger score comes first.

    References:
        Scheffer, Decomain, Wrobel 2001.
    """
    return -_class_measure("margin", probs)


def vote_variation_ratio(probs: Tensor) -> Tensor:
    """Return 1 − the share of passes that vote for the most frequent class.

    Args:
        probs: Class probabilities of each pass, [T, B, …, C].

    Returns:
        Scores, [B, …], between 0 and 1 − 1/C.

    References:
        Freeman 1965.
    """
    return _class_measure("vote_variation_ratio", probs)


def mean_std(probs: Tensor) -> Tensor:
    """Return the standard deviation over passes, averaged over classes.

    Args:
        probs: Class probabilities of each pass, [T, B, …, C].

    Returns:
        Scores, [B, …], between 0 and ½.

    References:
        Kampffmeyer et al. 2016.
    """
    return _class_measure("std", probs).mean(-1)


def variance(means: Tensor, variances: Tensor | None = None) -> Tensor:
    """Return the total variance: Var μ + E σ² with predicted variances, otherwise Var μ.

    Args:
        means: Predicted means of each pass, [T, B, …].
        variances: Predicted variances of each pass, [T, B, …], if the network has them.

    Returns:
        Variances, [B, …].

    References:
        Kendall, Gal 2017, eq. 9.
    """
    statistics = {"value": _moments(means)}
    if variances is not None:
        statistics["aleatoric"] = _variance_moments(means, variances)
    return output_kind("mean").measures["variance"](statistics)


def epistemic_variance(means: Tensor) -> Tensor:
    """Return the population variance of the means over passes, Var μ: the part that more labels lower.

    Args:
        means: Predicted means of each pass, [T, B, …].

    Returns:
        Variances, [B, …].

    References:
        Kendall, Gal 2017, arXiv 1703.04977.
    """
    return output_kind("mean").measures["epistemic_variance"]({"value": _moments(means)})


def gaussian_mutual_information(means: Tensor, variances: Tensor) -> Tensor:
    """Return the BALD score of regression, ½ log(Var μ + E σ²) − ½ E log σ².

    The mixture over passes is replaced by the Gaussian with the same moments. That Gaussian has the largest entropy of
    all laws with these moments, so the score is an upper bound of the mutual information.

    Args:
        means: Predicted means of each pass, [T, B, …].
        variances: Predicted variances of each pass, [T, B, …], above 0.

    Returns:
        Scores in nats, [B, …], at least 0.

    References:
        Houlsby et al. 2011, arXiv 1112.5745; Kirsch 2023, arXiv 2302.08981.
    """
    if (variances == 0).any():
        raise InvalidInput("a predicted variance is 0, of which there is no logarithm; variances above 0 are wanted.")
    statistics = {"value": _moments(means), "aleatoric": _variance_moments(means, variances)}
    statistics["log_aleatoric"] = Moments.of(variances.double().log())
    return output_kind("mean_and_log_variance").measures["gaussian_mutual_information"](statistics)


def upper_confidence_bound(means: Tensor, beta: float) -> Tensor:
    """Return E μ + beta · std μ over passes: high where a large value is likely or still possible.

    To look for small values, pass −means.

    Args:
        means: Predicted means of each pass, [T, B, …].
        beta: Number of standard deviations, at least 0.

    Returns:
        Scores, [B, …], in the unit of the means.

    References:
        Auer 2002; Srinivas et al. 2010, arXiv 0912.3995, eq. 6, whose β is the square of this one.
    """
    if not 0.0 <= beta < math.inf:
        raise InvalidInput(f"beta is {beta}; a finite number of at least 0 is wanted.")
    moments = _moments(means)
    return moments.mean + beta * moments.variance.sqrt()


def thompson(means: Tensor, seed: int) -> Tensor:
    """Return the means of one pass drawn by the seed, the same pass for every row (Thompson sampling).

    The rows must share the noise of a pass. Use a new seed for each step of a campaign.

    Args:
        means: Predicted means of each pass, [T, B, …].
        seed: Seed of the draw.

    Returns:
        Scores, [B, …], in the unit of the means.

    References:
        Thompson 1933; Gal, Ghahramani 2016, arXiv 1506.02142, section 5.5.
    """
    _checked_samples(means, 2, "[T, B, …]")
    word = words(seed, _PASS_SITE, torch.zeros(1, dtype=torch.int64), (1,))
    return means[int(word.item()) * len(means) >> 32].double()


def reduce(values: Tensor, how: Reduction = "mean", fraction: float | None = None) -> Tensor:
    """Return one score per row from scores of positions or outputs.

    Args:
        values: Scores, [B, …].
        how: "mean" averages all of them and can hide a small uncertain region. "max" takes the largest and follows a
            single outlier. "top_fraction" averages the largest `fraction` of them.
        fraction: The fraction of "top_fraction", above 0 and at most 1; the number of scores is rounded up.

    Returns:
        Scores, [B].
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
    """Check the arguments of `reduce`.

    Args:
        how: Name of the reduction.
        fraction: The fraction of "top_fraction", or None.

    Raises:
        InvalidInput: The reduction is unknown, or the fraction does not belong to it.
    """
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
