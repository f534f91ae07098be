"""BatchBALD: rows chosen together, so that what they teach overlaps little.

The labels y_1 … y_n of the chosen rows inform about the pass t that made them: I(y_1 … y_n; t), t uniform over the T
passes. With w_t = P(t | y), the posterior over the passes of a configuration of labels:

* of the rows chosen so far, I = log T − E_y H[w];
* a further row adds E_y (H[Σ_t w_t p_t] − Σ_t w_t H[p_t]), never less than 0 and never more than E_y H[w].

E_y is a sum over all configurations while they fit, and a mean over drawn ones beyond.

All rows must share their passes (one set of masks a pass, whatever the row). With masks of its own for each row a
row and its copy look independent, and nothing here keeps them apart.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dropout_core.acquire.configurations import Configurations, entropy_terms
from dropout_core.acquire.constraints import NO_LIMITS, Constraints, OpenRows, open_rows, within_quotas
from dropout_core.acquire.probabilities import check_probabilities, normalized
from dropout_core.errors import InvalidInput

SATURATION = 0.9
# gains this close, in nats, are equal: the sums behind them are rounded at 1e-15
_EQUAL = 1e-12
# rows scored before the best gain is looked at again; the choice must not depend on max_bytes, so this does not
_BLOCK = 64
_DOUBLE = 8


@dataclass(frozen=True)
class JointChoice:
    """Rows in the order they were picked.

    indices: int64 [k]. scores: float64 [k], nats: the mutual information of the labels of all rows up to and with
    this one. shares: float64 [k], the scores over what T passes can tell at most, 0 … 1; 1 where that is nothing. Of
    `batchbald` the most is log T.
    """

    indices: Tensor
    scores: Tensor
    shares: Tensor

    @property
    def saturated(self) -> bool:
        """Whether the picks use up what T passes can tell: a share above SATURATION.

        The picks after it are chosen by noise. Make more passes, or pick fewer rows.
        """
        return bool((self.shares > SATURATION).any())


def batchbald(
    probs: Tensor,
    k: int,
    *,
    seed: int = 0,
    num_samples: int = 10_000,
    candidates: int | None = None,
    limits: Constraints = NO_LIMITS,
    max_bytes: int = 2**24,
) -> JointChoice:
    """The k rows, greedily, whose labels together inform most about the passes: argmax I(y_1 … y_k; t).

    probs: [T, B, C], rows of classes that sum to 1 (they are divided by their sum); T passes shared by all rows. Fewer
    than k rows are returned when the pool is smaller. Equal gains: the lower index first.

    num_samples: the configurations of labels of the picked rows that are held, at num_samples · T · 8 bytes; rounded up
    to a multiple of T. While all configurations of positive probability (C^n at most) fit, scores are exact. Beyond,
    each is drawn: a pass (every pass equally often), then a label for each row from it. The estimate of the
    information of given rows is unbiased and stays in 0 … log T. The score of a pick is the largest of many such
    estimates, so too large by about the sampling error; and a score is never below the one before.
    candidates: how many rows, the best by mutual information alone, are considered; None: all. limits: with costs, the
    next pick is the row that adds most per cost; quotas hold for the candidates too, so that enough rows remain.
    max_bytes: of temporary memory, beside probs, the configurations and a few numbers for each row.

    A row's gain only falls as others are picked, so a row whose older gain is below the best new one is not scored
    again; with drawn configurations this can swap rows whose gains differ by less than the sampling error.
    Copies of a row are not shunned as such. Where the mutual information is tiny, labels hardly tell the passes apart
    and a second label of the same input teaches nearly as much as the first: the copy can be the right pick.

    Raises InvalidInput for anything that is not probabilities, k below 1, and candidates below k.
    Source: Kirsch, van Amersfoort, Gal 2019 (arXiv 1906.08158), section 3, algorithm 1; Minoux 1978 (older gains).
    """
    check_probabilities("probs", probs)
    check_sizes(k, num_samples, candidates, max_bytes)
    num_passes, num_rows, _ = probs.shape
    limits.check(num_rows)
    gains = _bald(probs, max_bytes)
    rows = best_candidates(limits.per_cost(gains), k, candidates, limits)
    costs = torch.ones_like(gains) if limits.costs is None else limits.costs.to(gains)
    state = Configurations(probs, seed, num_samples)
    still = OpenRows(open_rows(num_rows, limits.exclude).to(probs.device), limits)
    pool = _Pool(probs, rows, gains[rows], costs[rows], max_bytes)
    scores: list[float] = []
    while len(scores) < k and bool(still.keep[rows].any()):
        pool.gains[~still.keep[rows]] = -math.inf
        if scores:
            state.extend()
            _renew(state, pool)
        best = first_best(pool.gains / pool.costs, rows)
        scores.append(max(state.information() + float(pool.gains[best]), scores[-1] if scores else 0.0))
        state.picks.append(int(rows[best]))
        still.take(int(rows[best]))
    return joint_choice(state.picks, scores, math.log(num_passes), probs.device)


def joint_choice(picks: list[int], scores: list[float], most: float, device: torch.device) -> JointChoice:
    """Picks and scores as a choice. most: the information there is, nats."""
    found = torch.tensor(scores, dtype=torch.float64, device=device)
    shares = found / most if most > 0 else torch.ones_like(found)
    return JointChoice(torch.tensor(picks, dtype=torch.int64, device=device), found, shares)


def best_candidates(keys: Tensor, k: int, candidates: int | None, limits: Constraints) -> Tensor:
    """The rows of the largest keys [B] that are not excluded, so many of them: the lower index first among equals.

    Of a group with a quota at most `candidates` / k times as many, so that k rows remain where there are any.
    """
    keep = open_rows(len(keys), limits.exclude).to(keys.device)
    order = torch.argsort(keys, descending=True, stable=True)
    order = order[keep[order]]
    return order if candidates is None else within_quotas(order, candidates, limits.scaled(candidates // k))


@dataclass
class _Pool:
    """The rows considered. gains: what each adds to the picked ones, nats, or added to some of them."""

    probs: Tensor
    rows: Tensor
    gains: Tensor
    costs: Tensor
    max_bytes: int


def _renew(state: Configurations, pool: _Pool) -> None:
    """Score the rows again, in place, in the order of their older gains, while one can still be the best."""
    keys = pool.gains / pool.costs
    best = -math.inf
    for block in torch.argsort(keys, descending=True, stable=True).split(_BLOCK):
        hopeful = block[(keys[block] >= best - _EQUAL) & (keys[block] > -math.inf)]
        if not len(hopeful):
            return
        pool.gains[hopeful] = _gains(state, pool.probs, pool.rows[hopeful], pool.max_bytes)
        best = max(best, float((pool.gains[hopeful] / pool.costs[hopeful]).max()))


def _gains(state: Configurations, probs: Tensor, rows: Tensor, max_bytes: int) -> Tensor:
    """What each of the rows adds to the picked ones, nats, float64 [rows]."""
    num_passes, _, num_classes = probs.shape
    mean_posterior = state.masses @ state.posteriors
    found = []
    for few in rows.split(_fitting(max_bytes, 4 * num_passes * num_classes)):
        part = normalized(probs[:, few])
        aleatoric = mean_posterior @ torch.special.entr(part).sum(-1)
        columns = part.flatten(1)
        total = torch.zeros_like(columns[0])
        for masses, posteriors in state.pieces(_fitting(max_bytes, 4 * columns.shape[1])):
            predicted = posteriors @ columns
            total += masses @ entropy_terms(predicted)
        found.append((total.reshape(len(few), num_classes).sum(-1) - aleatoric).clamp_min(0.0))
    return torch.cat(found)


def _bald(probs: Tensor, max_bytes: int) -> Tensor:
    """The mutual information of each row alone, nats, float64 [B]."""
    found = []
    for part in probs.split(_fitting(max_bytes, 4 * probs.shape[0] * probs.shape[2]), dim=1):
        exact = normalized(part)
        expected = torch.special.entr(exact).sum(-1).mean(0)
        found.append((torch.special.entr(exact.mean(0)).sum(-1) - expected).clamp_min(0.0))
    return torch.cat(found)


def first_best(gains: Tensor, rows: Tensor) -> int:
    """The place of the lowest row among those of the largest gain."""
    best = torch.nonzero(gains >= gains.max() - _EQUAL)[:, 0]
    return int(best[rows[best].argmin()])


def _fitting(max_bytes: int, numbers: int) -> int:
    return max(1, max_bytes // (_DOUBLE * numbers))


def check_sizes(k: int, num_samples: int, candidates: int | None, max_bytes: int) -> None:
    """Raise InvalidInput for sizes of which there must be more."""
    if k < 1:
        raise InvalidInput(f"k is {k}; ask for at least 1 row.")
    if candidates is not None and candidates < k:
        raise InvalidInput(f"candidates is {candidates} with k = {k}; at least k rows must be considered.")
    if num_samples < 1 or max_bytes < 1:
        raise InvalidInput(f"num_samples is {num_samples} and max_bytes {max_bytes}; both must be at least 1.")
