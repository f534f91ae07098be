"""Selectors: which rows to label, given a score of each or given where they lie. Indices in pick order, best first.

A seed fixes the whole choice, by a counter, and tells equal rows apart: see `limits`. Where fewer than k rows are left
to choose from, all of them are chosen. Every selector returns int64 indices, and raises InvalidInput for k below 1, for
a wrong shape, and for NaN or infinity in a row that is not excluded.

* top_k, power, softmax, softrank: scores [B], larger first, see `pointwise`;
* k_centre, badge: embeddings [B, D], such as the input of the last linear layer with the noise off.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dropout_core.acquire.constraints import NO_LIMITS, Constraints, OpenRows, drawn_order, open_rows, within_quotas
from dropout_core.errors import InvalidInput
from dropout_core.noise.philox import uniform

# a counter site of its own: a network's sites count from 0
_GUMBEL_SITE = 2**32 - 3
# a sum of float32 probabilities may fall short of 0 by this much
_ROUNDING = 1e-6
_CHUNK_ELEMENTS = 2**22


def top_k(scores: Tensor, k: int, seed: int, limits: Constraints = NO_LIMITS) -> Tensor:
    """The k largest scores. On a pool with near copies it picks the copies, and random does better."""
    values, left = _scored(scores, k, seed, limits)
    return within_quotas(_ordered(values, left), k, limits)


def power(scores: Tensor, k: int, seed: int, beta: float = 1.0, limits: Constraints = NO_LIMITS) -> Tensor:
    """The k largest β log s + Gumbel noise: without replacement, each pick with a probability proportional to s^β.

    scores: at least 0. Rows of score 0 follow all others, in random order. beta: at least 0; 0 is a random choice,
    a large one top-k. Source: Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    _refuse_negative(values[left], "power")
    logs = torch.special.xlogy(_checked_beta(beta), values.clamp_min(0.0))  # 0 · log 0 is 0
    return within_quotas(_ordered(logs + _gumbel(seed, 0, values), left), k, limits)


def softmax(scores: Tensor, k: int, seed: int, beta: float = 4.0, limits: Constraints = NO_LIMITS) -> Tensor:
    """The k largest β s + Gumbel noise: without replacement, each pick with a probability proportional to e^(β s).

    beta: at least 0, in the reciprocal unit of the scores. Scores of less than a nat want more than 1, which is close
    to a random choice. Source: Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    keys = _checked_beta(beta) * values + _gumbel(seed, 0, values)
    return within_quotas(_ordered(keys, left), k, limits)


def softrank(scores: Tensor, k: int, seed: int, beta: float = 1.0, limits: Constraints = NO_LIMITS) -> Tensor:
    """The k largest −β log rank + Gumbel noise: without replacement, each pick with a probability ~ rank^−β.

    The rank is 1 for the largest score of the rows not excluded; equal scores get ranks one after the other. The size
    of the scores does not matter. beta: at least 0. Source: Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    ranks = torch.ones_like(values)
    ranks[_ordered(values, left)] = torch.arange(1, len(left) + 1, dtype=values.dtype, device=values.device)
    keys = _gumbel(seed, 0, values) - _checked_beta(beta) * ranks.log()
    return within_quotas(_ordered(keys, left), k, limits)


def k_centre(embeddings: Tensor, labelled: Tensor | None, k: int, seed: int, limits: Constraints = NO_LIMITS) -> Tensor:
    """Farthest first: each pick is the row farthest from all labelled rows and all picks. No scores are needed.

    embeddings: [B, D]. labelled: [L, D]; without any, the first pick is drawn. Distances are Euclidean, in float64, in
    chunks of rows; memory grows with B, never with B². The largest distance left is at most twice the smallest that k
    picks can leave. Source: Sener, Savarese 2018, arXiv 1708.00489, algorithm 1; Gonzalez 1985.
    """
    left = _rows(embeddings, "embeddings", k, seed, limits)
    nearest = torch.full((len(embeddings),), math.inf, dtype=torch.float64, device=embeddings.device)
    if labelled is not None and len(labelled):
        if labelled.dim() != 2 or labelled.shape[1] != embeddings.shape[1]:
            raise InvalidInput(
                f"the labelled rows have shape {list(labelled.shape)}; [L, {embeddings.shape[1]}] is wanted."
            )
        _refuse_non_finite(labelled, "labelled rows")
        nearest = _to_centres(embeddings, labelled)

    def to(pick: int) -> Tensor:
        return _to_centres(embeddings, embeddings[pick, None])

    return _spread(left, k, limits, nearest, to, lambda _, distances: distances)


def badge(probs: Tensor, embeddings: Tensor, k: int, seed: int, limits: Constraints = NO_LIMITS) -> Tensor:
    """BADGE: k-means++ on the gradients g = (p − onehot(argmax p)) ⊗ h of the last layer, as if its guess were right.

    probs: [B, C], their mean over passes, one column being that of the second of two classes. embeddings h: [B, D].
    The first pick is the row of the largest gradient, as in the authors' program; each other is drawn with a
    probability proportional to the squared distance from its nearest pick. Copies of picks, at distance 0, come last,
    in random order. The outer products, C · D numbers a row, are never formed. Source: Ash et al. 2020,
    arXiv 1906.03671, algorithm 1; Arthur, Vassilvitskii 2007.
    """
    left = _rows(embeddings, "embeddings", k, seed, limits)
    if probs.dim() != 2 or len(probs) != len(embeddings) or probs.shape[1] == 0:
        raise InvalidInput(f"the probabilities have shape {list(probs.shape)}; [{len(embeddings)}, C] is wanted.")
    _refuse_non_finite(probs[left], "probabilities")
    if ((probs < 0) | (probs > 1)).any():
        raise InvalidInput("a probability lies outside 0 … 1; probabilities, not logits, are wanted.")
    classes = torch.cat([1.0 - probs.double(), probs.double()], dim=1) if probs.shape[1] == 1 else probs.double()
    factors = classes - torch.nn.functional.one_hot(classes.argmax(1), classes.shape[1])
    sizes = factors.square().sum(1) * _chunked(embeddings, lambda rows, _: rows.square().sum(1))

    def drawn(number: int, squares: Tensor) -> Tensor:
        return squares.log() + _gumbel(seed, number, squares) if number else sizes

    def to(pick: int) -> Tensor:
        return _to_gradient(factors, embeddings, pick)

    return _spread(left, k, limits, torch.full_like(sizes, math.inf), to, drawn)


def _scored(scores: Tensor, k: int, seed: int, limits: Constraints) -> tuple[Tensor, Tensor]:
    """The scores, or scores per cost, [B] float64; and the rows to choose from, in the order that settles ties."""
    if scores.dim() != 1:
        raise InvalidInput(f"the scores have shape {list(scores.shape)}; [B] is wanted.")
    left = drawn_order(len(scores), k, seed, limits, scores.device)
    values = scores.double()
    _refuse_non_finite(values[left], "scores")
    if limits.costs is not None:
        _refuse_negative(values[left], "a score per cost")
    return limits.per_cost(values), left


def _rows(rows: Tensor, name: str, k: int, seed: int, limits: Constraints) -> Tensor:
    if rows.dim() != 2:
        raise InvalidInput(f"the {name} have shape {list(rows.shape)}; [B, D] is wanted.")
    if limits.costs is not None:
        raise InvalidInput("these picks have no score that costs could divide; leave the costs out.")
    left = drawn_order(len(rows), k, seed, limits, rows.device)
    _refuse_non_finite(rows.sum(1, dtype=torch.float64)[left], name)
    return left


def _ordered(keys: Tensor, left: Tensor) -> Tensor:
    """The rows of `left`, largest key first; equal keys in the order of `left`."""
    return left[keys[left].argsort(descending=True, stable=True)]


def _gumbel(seed: int, number: int, like: Tensor) -> Tensor:
    """Standard Gumbel noise for pick `number`, [B]: −log(−log u), u in the middle of an interval of 2^-32."""
    passes = torch.tensor([number], device=like.device)
    return -(-(uniform(seed, _GUMBEL_SITE, passes, (len(like),))[0] + 2.0**-33).log()).log()


def _spread(
    left: Tensor,
    k: int,
    limits: Constraints,
    nearest: Tensor,
    to: Callable[[int], Tensor],
    keys: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Picks one after the other: the row whose key, of its distance from its nearest pick, is the largest.

    nearest: [B], from what is chosen before the first pick. to: the distances [B] from a pick. keys: of the number of
    a pick and the distances. Equal keys: the first of `left`.
    """
    picks: list[int] = []
    still = OpenRows(open_rows(len(nearest), limits.exclude).to(left.device), limits)
    for number in range(min(k, len(left))):
        left = left[still.keep[left]]
        if not len(left):
            break
        pick = int(left[keys(number, nearest)[left].argmax()])
        picks.append(pick)
        still.take(pick)
        nearest = torch.minimum(nearest, to(pick))
    return torch.tensor(picks, dtype=torch.int64, device=left.device)


def _to_centres(rows: Tensor, centres: Tensor) -> Tensor:
    """The distance [B] of each row from the nearest centre [L, D]. By differences: a copy is at exactly 0."""
    centres = centres.double()
    mode = "donot_use_mm_for_euclid_dist"
    return _chunked(rows, lambda part, _: torch.cdist(part, centres, compute_mode=mode).amin(1), len(centres))


def _to_gradient(factors: Tensor, rows: Tensor, pick: int) -> Tensor:
    """‖u − g‖² [B] of each row's u = b ⊗ r from the pick's g = a ⊗ h.

    u − g = (b − a) ⊗ r + a ⊗ (r − h): no large numbers cancel where the two are close, and a copy is at exactly 0.
    """
    a, h = factors[pick], rows[pick].double()

    def squares(part: Tensor, where: slice) -> Tensor:
        along_a, along_h = factors[where] - a, part - h
        first = along_a.square().sum(1) * part.square().sum(1)
        second = a.square().sum() * along_h.square().sum(1)
        cross = 2.0 * (along_a @ a) * (part * along_h).sum(1)
        return (first + second + cross).clamp_min(0.0)

    return _chunked(rows, squares)


def _chunked(rows: Tensor, of: Callable[[Tensor, slice], Tensor], width: int = 1) -> Tensor:
    """One float64 number for each row, [B], by chunks of rows of bounded memory."""
    size = max(1, _CHUNK_ELEMENTS // max(1, rows.shape[1], width))
    parts = [slice(start, start + size) for start in range(0, len(rows), size)]
    empty = torch.zeros(0, dtype=torch.float64, device=rows.device)
    return torch.cat([empty, *(of(rows[part].double(), part) for part in parts)])


def _checked_beta(beta: float) -> float:
    if not 0.0 <= beta < math.inf:
        raise InvalidInput(f"beta is {beta}; a finite number of at least 0 is wanted.")
    return float(beta)


def _refuse_negative(values: Tensor, what: str) -> None:
    if (values < -_ROUNDING).any():
        raise InvalidInput(f"a score is {values.min().item()}; {what} needs scores of at least 0.")


def _refuse_non_finite(values: Tensor, name: str) -> None:
    if not values.isfinite().all():
        raise InvalidInput(f"the {name} have NaN or infinity; finite ones are wanted, or such rows excluded.")
