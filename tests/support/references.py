"""Slow float64 oracles: every formula once more, in plain Python where that is bearable."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from statistics import NormalDist

import torch
from torch import Tensor

from tests.support.nets import Twin

_WORD = 2**32

Row = Sequence[float]
Pass = Sequence[Row]


def philox(key: tuple[int, int], counter: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 as Random123 writes it: mulhilo, then the key is bumped by the Weyl constants."""
    x, k = list(counter), list(key)
    for _ in range(10):
        hi0, lo0 = divmod(0xD2511F53 * x[0], _WORD)
        hi1, lo1 = divmod(0xCD9E8D57 * x[2], _WORD)
        x = [hi1 ^ x[1] ^ k[0], lo1, hi0 ^ x[3] ^ k[1], lo0]
        k = [(k[0] + 0x9E3779B9) % _WORD, (k[1] + 0xBB67AE85) % _WORD]
    return x[0], x[1], x[2], x[3]


def word(seed: int, site: int, number: int, coordinates: Sequence[int]) -> int:
    """One draw of noise version 1, its 96 bits of coordinates written as one integer."""
    key = philox((seed % _WORD, seed // _WORD), (site, 1, 0, 0))[:2]
    fields = [*coordinates[:-1], coordinates[-1] // 4]
    fields = [0] * (len(fields) % 2) + fields
    half = len(fields) // 2
    bits = min(32, 48 // half)
    w = 0
    for place, field in enumerate(reversed(fields)):
        w += field << (bits * place if place < half else 48 + bits * (place - half))
    return philox(key, (number, w >> 64, (w >> 32) % _WORD, w % _WORD))[coordinates[-1] % 4]


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population variance without any rounding before the last step."""
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    return float(mean), float(sum((value - mean) ** 2 for value in exact) / len(exact))


def entropy(probs: Row) -> float:
    """In nats; a probability of 0 adds nothing."""
    return -sum(p * math.log(p) for p in probs if p > 0)


def softmax(logits: Row) -> list[float]:
    """Class probabilities; one logit is that of the second of two classes."""
    logits = [0.0, *logits] if len(logits) == 1 else logits
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def classification(passes: Sequence[Pass]) -> dict[str, list]:
    """Every measure of class probabilities [T][B][C], row by row."""
    measures: dict[str, list] = {}
    for row in range(len(passes[0])):
        draws = [one[row] for one in passes]
        columns = [moments(column) for column in zip(*draws, strict=True)]
        mean, votes = [m for m, _ in columns], [draw.index(max(draw)) for draw in map(list, draws)]
        expected = math.fsum(map(entropy, draws)) / len(draws)
        ranked = sorted(mean, reverse=True)
        for name, value in {
            "mean": mean,
            "variance": [v for _, v in columns],
            "std": [math.sqrt(v) for _, v in columns],
            "predictive_entropy": entropy(mean),
            "expected_entropy": expected,
            "mutual_information": max(0.0, entropy(mean) - expected),
            "least_confidence": 1 - ranked[0],
            "margin": ranked[0] - ranked[1],
            "vote_variation_ratio": 1 - max(map(votes.count, votes)) / len(votes),
        }.items():
            measures.setdefault(name, []).append(value)
    return measures


def regression(passes: Sequence[Pass], variances: Sequence[Pass] | None = None) -> dict[str, list]:
    """Every measure of predicted means [T][B][C] and, where there are any, predicted variances."""
    measures: dict[str, list] = {"mean": [], "variance": [], "std": [], "epistemic_variance": []}
    measures |= {"aleatoric_variance": [], "gaussian_mutual_information": []} if variances else {}
    for row in range(len(passes[0])):
        columns = [moments(column) for column in zip(*(one[row] for one in passes), strict=True)]
        noise = [0.0] * len(columns)
        if variances:
            noise = [moments(column)[0] for column in zip(*(one[row] for one in variances), strict=True)]
            measures["aleatoric_variance"].append(noise)
        total = [v + n for (_, v), n in zip(columns, noise, strict=True)]
        if variances:
            logs = [moments(map(math.log, column))[0] for column in zip(*(one[row] for one in variances), strict=True)]
            gaps = [0.5 * (math.log(t) - log) for t, log in zip(total, logs, strict=True)]
            measures["gaussian_mutual_information"].append([max(0.0, gap) for gap in gaps])
        measures["mean"].append([m for m, _ in columns])
        measures["epistemic_variance"].append([v for _, v in columns])
        measures["variance"].append(total)
        measures["std"].append([math.sqrt(v) for v in total])
    return measures


def mixture_cdf(x: float, means: Row, stds: Row) -> float:
    """The distribution function of equally weighted Gaussians."""
    return math.fsum(NormalDist(m, s).cdf(x) for m, s in zip(means, stds, strict=True)) / len(means)


def all_masks(sites: Sequence[tuple[Sequence[int], float]]) -> Iterator[tuple[float, list[Tensor]]]:
    """Every combination of the sites' masks, scaled by 1 / keep, with its probability."""
    units = [rate for shape, rate in sites for _ in range(math.prod(shape))]
    sizes = [math.prod(shape) for shape, _ in sites]
    for kept in product((False, True), repeat=len(units)):
        probability = math.prod(1 - rate if keep else rate for keep, rate in zip(kept, units, strict=True))
        scaled = [keep / (1 - rate) for keep, rate in zip(kept, units, strict=True)]
        parts = torch.tensor(scaled, dtype=torch.float64).split(sizes)
        yield probability, [part.reshape(*shape) for part, (shape, _) in zip(parts, sites, strict=True)]


def enumerated(net: Twin, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exact mean, variance and fourth central moment [B, C] of a network over all its masks."""
    probabilities, outputs = [], []
    for probability, masks in all_masks(net.sites):
        probabilities.append(probability)
        outputs.append(net.masked(x, [mask.to(net.dtype) for mask in masks]).detach().double())
    weights = torch.tensor(probabilities, dtype=torch.float64)
    values = torch.stack(outputs)
    mean = torch.tensordot(weights, values, 1)
    central = values - mean
    return mean, torch.tensordot(weights, central**2, 1), torch.tensordot(weights, central**4, 1)


def last_layer_dropout(factors: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Covariance of y = Σ_k factors[:, k] · (m_k / keep − 1), and the variance of its products y_i y_j.

    With e = m / keep − 1: E e² = v = p / (1 − p), E e⁴ = p + p⁴ / (1 − p)³, and for independent e
    E y_i² y_j² = Σ_k a_ik² a_jk² (E e⁴ − 3 v²) + S_ii S_jj + 2 S_ij².
    """
    v, fourth = rate / (1 - rate), rate + rate**4 / (1 - rate) ** 3
    covariance = v * factors @ factors.T
    squares = factors.square()
    diagonal = covariance.diagonal()
    products = (fourth - 3 * v**2) * squares @ squares.T + torch.outer(diagonal, diagonal) + 2 * covariance**2
    return covariance, products - covariance**2
