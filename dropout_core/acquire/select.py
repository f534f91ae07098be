"""Selectors: pick the rows to label from their scores or their embeddings.

Every selector returns int64 row indices in the order of the picks, best first. The seed fixes the whole choice through
a counter-based generator and also breaks ties between equal rows (see `constraints`). If fewer than k rows are
available, all of them are returned. Every selector raises InvalidInput for k below 1, a wrong shape, and NaN or
infinity in a row that is not excluded.

* top_k, power, softmax, softrank take scores [B], larger first (see `pointwise`);
* k_centre, badge take embeddings [B, D], such as the input of the last linear layer with the noise off.
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
    """Return the k rows with the largest scores.

    On a pool with near copies it picks the copies, and a random choice does better.

    Args:
        scores: Scores, [B].
        k: Number of rows to pick.
        seed: Seed that breaks ties.
        limits: Excluded rows, costs and quotas.

    Returns:
        Row indices, int64 [k].
    """
    values, left = _scored(scores, k, seed, limits)
    return within_quotas(_ordered(values, left), k, limits)


def power(scores: Tensor, k: int, seed: int, beta: float = 1.0, limits: Constraints = NO_LIMITS) -> Tensor:
    """Sample k rows without replacement, each pick with a probability proportional to s^β.

    The picks are the k largest values of β log s + Gumbel noise.

    Args:
        scores: Scores, [B], at least 0. Rows of score 0 follow all others, in random order.
        k: Number of rows to pick.
        seed: Seed of the draws.
        beta: Sharpness, at least 0; 0 is a random choice, a large value is top-k.
        limits: Excluded rows, costs and quotas.

    Returns:
        Row indices, int64 [k].

    References:
        Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    _refuse_negative(values[left], "power")
    logs = torch.special.xlogy(_checked_beta(beta), values.clamp_min(0.0))  # 0 · log 0 is 0
    return within_quotas(_ordered(logs + _gumbel(seed, 0, values), left), k, limits)


def softmax(scores: Tensor, k: int, seed: int, beta: float = 4.0, limits: Constraints = NO_LIMITS) -> Tensor:
    """Sample k rows without replacement, each pick with a probability proportional to e^(β s).

    The picks are the k largest values of β s + Gumbel noise.

    Args:
        scores: Scores, [B].
        k: Number of rows to pick.
        seed: Seed of the draws.
        beta: Sharpness, at least 0, in the reciprocal unit of the scores. For scores below one nat, use more than 1,
            which is close to a random choice.
        limits: Excluded rows, costs and quotas.

    Returns:
        Row indices, int64 [k].

    References:
        Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    keys = _checked_beta(beta) * values + _gumbel(seed, 0, values)
    return within_quotas(_ordered(keys, left), k, limits)


def softrank(scores: Tensor, k: int, seed: int, beta: float = 1.0, limits: Constraints = NO_LIMITS) -> Tensor:
    """Sample k rows without replacement, each pick with a probability proportional to rank^−β.

    The picks are the k largest values of −β log rank + Gumbel noise. Among the rows that are not excluded, the largest
    score has rank 1; equal scores have successive ranks. Only the order of the scores matters, not their size.

    Args:
        scores: Scores, [B].
        k: Number of rows to pick.
        seed: Seed of the draws.
        beta: Sharpness, at least 0.
        limits: Excluded rows, costs and quotas.

    Returns:
        Row indices, int64 [k].

    References:
        Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    ranks = torch.ones_like(values)
    ranks[_ordered(values, left)] = torch.arange(1, len(left) + 1, dtype=values.dtype, device=values.device)
    keys = _gumbel(seed, 0, values) - _checked_beta(beta) * ranks.log()
    return within_quotas(_ordered(keys, left), k, limits)


def k_centre(embeddings: Tensor, labelled: Tensor | None, k: int, seed: int, limits: Constraints = NO_LIMITS) -> Tensor:
    """Pick the row farthest from all labelled rows and all earlier picks, k times. It needs no scores.

    Distances are Euclidean and computed in float64, in chunks of rows: memory grows with B, not with B². The largest
    distance that remains is at most twice the smallest that any k picks can reach.

    Args:
        embeddings: Embeddings of the pool, [B, D].
        labelled: Embeddings of labelled rows, [L, D]. Without any, the first pick is drawn.
        k: Number of rows to pick.
        seed: Seed of the first pick and of ties.
        limits: Excluded rows and quotas; costs are refused.

    Returns:
        Row indices, int64 [k].

    References:
        Sener, Savarese 2018, arXiv 1708.00489, algorithm 1; Gonzalez 1985.
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
    """Pick k rows by k-means++ on gradients of the last layer (BADGE).

    The gradient of a row is g = (p − onehot(argmax p)) ⊗ h, as if the predicted class were right. The first pick has
    the largest gradient, as in the authors' program. Each later pick is drawn with a probability proportional to the
    squared distance from its nearest pick. Copies of picks, at distance 0, come last, in random order. The outer
    products of C · D numbers per row are never formed.

    Args:
        probs: Mean class probabilities over passes, [B, C]; a single column is the probability of the second of two
            classes.
        embeddings: Embeddings h, [B, D].
        k: Number of rows to pick.
        seed: Seed of the draws.
        limits: Excluded rows and quotas; costs are refused.

    Returns:
        Row indices, int64 [k].

    References:
        Ash et al. 2020, arXiv 1906.03671, algorithm 1; Arthur, Vassilvitskii 2007.
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
    """Return the scores or scores per cost, float64 [B], and the available rows in the order that breaks ties."""
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
    """Return the rows of `left`, largest key first; equal keys keep the order of `left`."""
    return left[keys[left].argsort(descending=True, stable=True)]


def _gumbel(seed: int, number: int, like: Tensor) -> Tensor:
    """Return standard Gumbel noise for pick `number`, [B]: −log(−log u), u in the middle of an interval of 2^-32."""
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
    """Pick rows one at a time, each with the largest key of its distance from the nearest pick.

    nearest: distances [B] from the rows chosen before the first pick. to: returns the distances [B] from a pick. keys:
    returns the keys for the number of a pick and the distances. The first of `left` wins among equal keys.
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
    """Return each row's distance [B] from the nearest centre [L, D], from differences: a copy is at exactly 0."""
    centres = centres.double()
    mode = "donot_use_mm_for_euclid_dist"
    return _chunked(rows, lambda part, _: torch.cdist(part, centres, compute_mode=mode).amin(1), len(centres))


def _to_gradient(factors: Tensor, rows: Tensor, pick: int) -> Tensor:
    """Return ‖u − g‖² [B] between the gradient u = b ⊗ r of each row and the gradient g = a ⊗ h of the pick.

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
    """Return one float64 number per row, [B], computed in chunks of bounded memory."""
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
