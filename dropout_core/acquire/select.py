"""Selectors: which rows to label, given a score of each or given where they lie. Indices in pick order, best first.

A seed fixes the whole choice, by a counter: the draw of a row depends on the seed and its index, never on how many
rows there are. Equal rows are told apart by such a draw, so that a choice does not follow the order of the rows.
Where fewer than k rows are left to choose from, all of them are chosen. Every selector returns int64 indices, and
raises InvalidInput for k below 1, for a wrong shape, and for NaN or infinity in a row that is not excluded.

* top_k, power, softmax, softrank: scores [B], larger first, see `pointwise`;
* k_centre, badge: embeddings [B, D], such as the input of the last linear layer with the noise off.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.noise import uniform, words

# counter sites of their own: a network's sites count from 0
_TIE_SITE = 2**32 - 5
_GUMBEL_SITE = 2**32 - 3
# a sum of float32 probabilities may fall short of 0 by this much
_ROUNDING = 1e-6
_CHUNK_ELEMENTS = 2**22


@dataclass(frozen=True)
class Limits:
    """What a choice by scores keeps to.

    exclude: the indices of rows never chosen. costs [B]: above 0, what the label of each row costs; then a row's score
    is its score per cost, and scores must be at least 0. groups: the group of each row, B of them, and quotas: at most
    how many rows of a group are chosen; a group without a quota is without a limit.
    """

    exclude: Sequence[int] | Tensor = ()
    costs: Tensor | None = None
    groups: Sequence[Any] | Tensor | None = None
    quotas: Mapping[Any, int] | None = None


_NO_LIMITS = Limits()


def top_k(scores: Tensor, k: int, seed: int, limits: Limits = _NO_LIMITS) -> Tensor:
    """The k largest scores. On a pool with near copies it picks the copies, and random does better."""
    values, left = _scored(scores, k, seed, limits)
    return _within_quotas(_ordered(values, left), k, len(scores), limits)


def power(scores: Tensor, k: int, seed: int, beta: float = 1.0, limits: Limits = _NO_LIMITS) -> Tensor:
    """The k largest β log s + Gumbel noise: without replacement, each pick with a probability proportional to s^β.

    scores: at least 0. Rows of score 0 follow all others, in random order. beta: at least 0; 0 is a random choice,
    a large one top-k. Source: Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    _refuse_negative(values[left], "power")
    logs = torch.special.xlogy(_checked_beta(beta), values.clamp_min(0.0))  # 0 · log 0 is 0
    return _within_quotas(_ordered(logs + _gumbel(seed, 0, values), left), k, len(scores), limits)


def softmax(scores: Tensor, k: int, seed: int, beta: float = 4.0, limits: Limits = _NO_LIMITS) -> Tensor:
    """The k largest β s + Gumbel noise: without replacement, each pick with a probability proportional to e^(β s).

    beta: at least 0, in the reciprocal unit of the scores. Scores of less than a nat want more than 1, which is close
    to a random choice. Source: Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    return _within_quotas(
        _ordered(_checked_beta(beta) * values + _gumbel(seed, 0, values), left), k, len(scores), limits
    )


def softrank(scores: Tensor, k: int, seed: int, beta: float = 1.0, limits: Limits = _NO_LIMITS) -> Tensor:
    """The k largest −β log rank + Gumbel noise: without replacement, each pick with a probability ~ rank^−β.

    The rank is 1 for the largest score of the rows not excluded; equal scores get ranks one after the other. The size
    of the scores does not matter. beta: at least 0. Source: Kirsch et al. 2021, arXiv 2106.12059, section 3.
    """
    values, left = _scored(scores, k, seed, limits)
    ranks = torch.ones_like(values)
    ranks[_ordered(values, left)] = torch.arange(1, len(left) + 1, dtype=values.dtype, device=values.device)
    keys = _gumbel(seed, 0, values) - _checked_beta(beta) * ranks.log()
    return _within_quotas(_ordered(keys, left), k, len(scores), limits)


def k_centre(
    embeddings: Tensor, labelled: Tensor | None, k: int, seed: int, exclude: Sequence[int] | Tensor = ()
) -> Tensor:
    """Farthest first: each pick is the row farthest from all labelled rows and all picks. No scores are needed.

    embeddings: [B, D]. labelled: [L, D]; without any, the first pick is drawn. Distances are Euclidean, in float64, in
    chunks of rows; memory grows with B, never with B². The largest distance left is at most twice the smallest that k
    picks can leave. Source: Sener, Savarese 2018, arXiv 1708.00489, algorithm 1; Gonzalez 1985.
    """
    left = _rows(embeddings, "embeddings", k, seed, exclude)
    nearest = torch.full((len(embeddings),), math.inf, dtype=torch.float64, device=embeddings.device)
    if labelled is not None and len(labelled):
        if labelled.dim() != 2 or labelled.shape[1] != embeddings.shape[1]:
            raise InvalidInput(
                f"the labelled rows have shape {list(labelled.shape)}; [L, {embeddings.shape[1]}] is wanted."
            )
        _refuse_non_finite(labelled, "labelled rows")
        nearest = _to_centres(embeddings, labelled)
    return _spread(
        left, k, nearest, lambda pick: _to_centres(embeddings, embeddings[pick, None]), lambda _, distances: distances
    )


def badge(probs: Tensor, embeddings: Tensor, k: int, seed: int, exclude: Sequence[int] | Tensor = ()) -> Tensor:
    """BADGE: k-means++ on the gradients g = (p − onehot(argmax p)) ⊗ h of the last layer, as if its guess were right.

    probs: [B, C], their mean over passes, one column being that of the second of two classes. embeddings h: [B, D].
    The first pick is the row of the largest gradient, as in the authors' program; each other is drawn with a
    probability proportional to the squared distance from its nearest pick. Copies of picks, at distance 0, come last,
    in random order. The outer products, C · D numbers a row, are never formed. Source: Ash et al. 2020,
    arXiv 1906.03671, algorithm 1; Arthur, Vassilvitskii 2007.
    """
    left = _rows(embeddings, "embeddings", k, seed, exclude)
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

    return _spread(
        left,
        k,
        torch.full_like(sizes, math.inf),
        lambda pick: _to_gradient(factors, embeddings, pick),
        drawn,
    )


def _scored(scores: Tensor, k: int, seed: int, limits: Limits) -> tuple[Tensor, Tensor]:
    """The scores, or scores per cost, [B] float64; and the rows to choose from, in the order that settles ties."""
    if scores.dim() != 1:
        raise InvalidInput(f"the scores have shape {list(scores.shape)}; [B] is wanted.")
    left = _left(len(scores), k, seed, limits.exclude, scores.device)
    values = scores.double()
    if limits.costs is not None:
        if limits.costs.shape != scores.shape:
            raise InvalidInput(f"the costs have shape {list(limits.costs.shape)}; [{len(scores)}] is wanted.")
        if not ((limits.costs > 0) & limits.costs.isfinite()).all():
            raise InvalidInput("a cost is not a finite number above 0; costs above 0 are wanted.")
        _refuse_negative(values[left], "a score per cost")
        values = values / limits.costs.double()
    _refuse_non_finite(values[left], "scores")
    return values, left


def _rows(rows: Tensor, name: str, k: int, seed: int, exclude: Sequence[int] | Tensor) -> Tensor:
    if rows.dim() != 2:
        raise InvalidInput(f"the {name} have shape {list(rows.shape)}; [B, D] is wanted.")
    left = _left(len(rows), k, seed, exclude, rows.device)
    _refuse_non_finite(rows.sum(1, dtype=torch.float64)[left], name)
    return left


def _left(num_rows: int, k: int, seed: int, exclude: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """The rows that may be chosen, in an order drawn by the seed."""
    if k < 1:
        raise InvalidInput(f"k is {k}; ask for at least 1 row.")
    without = exclude if isinstance(exclude, Tensor) else torch.tensor(list(exclude))
    keep = torch.ones(num_rows, dtype=torch.bool, device=device)
    if without.numel():
        if without.dtype == torch.bool or without.is_floating_point():
            raise InvalidInput(f"the excluded rows are {without.dtype}; their indices, whole numbers, are wanted.")
        if without.min() < 0 or without.max() >= num_rows:
            raise InvalidInput(f"an excluded row is not among the {num_rows} rows; 0 … {num_rows - 1} are wanted.")
        keep[without.to(device, torch.int64).flatten()] = False
    passes = torch.zeros(1, dtype=torch.int64, device=device)
    order = words(seed, _TIE_SITE, passes, (num_rows,))[0].argsort(stable=True)
    return order[keep[order]]


def _ordered(keys: Tensor, left: Tensor) -> Tensor:
    """The rows of `left`, largest key first; equal keys in the order of `left`."""
    return left[keys[left].argsort(descending=True, stable=True)]


def _gumbel(seed: int, number: int, like: Tensor) -> Tensor:
    """Standard Gumbel noise for pick `number`, [B]: −log(−log u), u in the middle of an interval of 2^-32."""
    passes = torch.tensor([number], device=like.device)
    return -(-(uniform(seed, _GUMBEL_SITE, passes, (len(like),))[0] + 2.0**-33).log()).log()


def _within_quotas(order: Tensor, k: int, num_rows: int, limits: Limits) -> Tensor:
    """The first k rows of `order` of which no group has more than its quota."""
    if limits.groups is None and limits.quotas is None:
        return order[:k]
    if limits.groups is None or limits.quotas is None:
        raise InvalidInput("there are groups or quotas, and not both; quotas need the group of each row.")
    groups = limits.groups.tolist() if isinstance(limits.groups, Tensor) else limits.groups
    if len(groups) != num_rows:
        raise InvalidInput(f"there are {len(groups)} groups; one for each of the {num_rows} rows is wanted.")
    if min(limits.quotas.values(), default=0) < 0:
        raise InvalidInput(f"the quotas are {dict(limits.quotas)}; each must be at least 0.")
    room = dict(limits.quotas)
    picks: list[int] = []
    for row in order.tolist():
        group = groups[row]
        if len(picks) < k and room.get(group, 1) > 0:
            picks.append(row)
            if group in room:
                room[group] -= 1
    return torch.tensor(picks, dtype=torch.int64, device=order.device)


def _spread(
    left: Tensor, k: int, nearest: Tensor, to: Callable[[int], Tensor], keys: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """Picks one after the other: the row whose key, of its distance from its nearest pick, is the largest.

    nearest: [B], from what is chosen before the first pick. to: the distances [B] from a pick. keys: of the number of
    a pick and the distances. Equal keys: the first of `left`.
    """
    picks: list[int] = []
    for number in range(min(k, len(left))):
        pick = int(left[keys(number, nearest)[left].argmax()])
        picks.append(pick)
        left = left[left != pick]
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
