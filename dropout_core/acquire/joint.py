"""BatchBALD: rows chosen together, so that their labels do not teach the same thing.

The labels y_1 … y_n of the chosen rows inform about the pass t that produced them: I(y_1 … y_n; t), with t uniform over
the T passes. Let w_t = P(t | y) be the posterior over the passes given a configuration of labels. Then

* the rows chosen before have I = log T − E_y H[w];
* another row adds E_y (H[Σ_t w_t p_t] − Σ_t w_t H[p_t]), which lies between 0 and E_y H[w].

E_y is a sum over all configurations while they fit, and a mean over drawn configurations beyond.

All rows must share the masks of a pass. With independent masks a row and its copy look independent, so the choice would
contain both.
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
    """Rows that were chosen together, in the order of the picks.

    Attributes:
        indices: Row indices, int64 [k].
        scores: Mutual information of the labels of all rows up to and including this one, in nats, float64 [k].
        shares: Scores divided by the largest possible information, float64 [k], between 0 and 1; 1 where that is 0. For
            `batchbald` the largest is log T.
    """

    indices: Tensor
    scores: Tensor
    shares: Tensor

    @property
    def saturated(self) -> bool:
        """Whether a share exceeds SATURATION: the picks use up the information of T passes, and later picks are noise.

        Use more passes, or pick fewer rows.
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
    """Greedily pick k rows whose labels together inform most about the passes: argmax I(y_1 … y_k; t).

    The gain of a row only falls as others are picked, so a row whose earlier gain is below the best new one is not
    scored again. With drawn configurations this can swap rows whose gains differ by less than the sampling error.

    Copies of a row are not avoided as such. Where the mutual information is tiny, labels hardly distinguish the
    passes, and a second label of the same input teaches nearly as much as the first: the copy can be the right pick.

    Args:
        probs: Class probabilities, [T, B, C], from T passes that all rows share. They are divided by their sum over
            classes.
        k: Number of rows to pick. A smaller pool returns fewer.
        seed: Seed of the drawn label configurations.
        num_samples: Number of label configurations to hold, at num_samples · T · 8 bytes; rounded up to a multiple of
            T. While all configurations of positive probability (at most C^n) fit, scores are exact. Beyond, each is
            drawn: a pass (every pass equally often), then a label for each row from it. The estimated information of
                given rows
            is unbiased and stays between 0 and log T. The score of a pick is the largest of many estimates, so it is
            too large by about the sampling error; a score is never below the one before.
        candidates: Number of rows to consider, the best by mutual information alone; all by default. Quotas hold for
            the candidates too, so that enough rows remain.
        limits: Excluded rows, costs and quotas. With costs, each pick adds the most information per cost.
        max_bytes: Limit of temporary memory, beside the probabilities, the configurations and a few numbers per row.

    Returns:
        The picks. The lower index wins among equal gains.

    Raises:
        InvalidInput: `probs` are not probabilities, k is below 1, or candidates is below k.

    References:
        Kirsch, van Amersfoort, Gal 2019, arXiv 1906.08158, section 3, algorithm 1; Minoux 1978 (earlier gains as
        bounds).
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
    """Return picks and scores as a JointChoice.

    Args:
        picks: Row indices, in the order of the picks.
        scores: Joint scores in nats, one per pick.
        most: The largest possible information, in nats.
        device: Device of the result.

    Returns:
        The choice.
    """
    found = torch.tensor(scores, dtype=torch.float64, device=device)
    shares = found / most if most > 0 else torch.ones_like(found)
    return JointChoice(torch.tensor(picks, dtype=torch.int64, device=device), found, shares)


def best_candidates(keys: Tensor, k: int, candidates: int | None, limits: Constraints) -> Tensor:
    """Return the rows with the largest keys that are not excluded; the lower index wins among equal keys.

    Args:
        keys: Keys of all rows, [B].
        k: Number of rows that will be picked.
        candidates: Number of rows to return; all by default.
        limits: Excluded rows and quotas. A group gets `candidates` // k times its quota, so that k rows remain where
            the pool has them.

    Returns:
        Row indices, int64, largest key first.
    """
    keep = open_rows(len(keys), limits.exclude).to(keys.device)
    order = torch.argsort(keys, descending=True, stable=True)
    order = order[keep[order]]
    return order if candidates is None else within_quotas(order, candidates, limits.scaled(candidates // k))


@dataclass
class _Pool:
    """The candidates. gains: information in nats that each adds, or added earlier, to the picked rows."""

    probs: Tensor
    rows: Tensor
    gains: Tensor
    costs: Tensor
    max_bytes: int


def _renew(state: Configurations, pool: _Pool) -> None:
    """Score the rows again, in place and in the order of their earlier gains, while one can still be the best."""
    keys = pool.gains / pool.costs
    best = -math.inf
    for block in torch.argsort(keys, descending=True, stable=True).split(_BLOCK):
        hopeful = block[(keys[block] >= best - _EQUAL) & (keys[block] > -math.inf)]
        if not len(hopeful):
            return
        pool.gains[hopeful] = _gains(state, pool.probs, pool.rows[hopeful], pool.max_bytes)
        best = max(best, float((pool.gains[hopeful] / pool.costs[hopeful]).max()))


def _gains(state: Configurations, probs: Tensor, rows: Tensor, max_bytes: int) -> Tensor:
    """Return the information that each row adds to the picked ones, in nats, float64 [rows]."""
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
    """Return the mutual information of each row alone, in nats, float64 [B]."""
    found = []
    for part in probs.split(_fitting(max_bytes, 4 * probs.shape[0] * probs.shape[2]), dim=1):
        exact = normalized(part)
        expected = torch.special.entr(exact).sum(-1).mean(0)
        found.append((torch.special.entr(exact.mean(0)).sum(-1) - expected).clamp_min(0.0))
    return torch.cat(found)


def first_best(gains: Tensor, rows: Tensor) -> int:
    """Return the position of the lowest row among those with the largest gain.

    Args:
        gains: Gains in nats, [rows].
        rows: Row indices, [rows].

    Returns:
        A position in `rows`.
    """
    best = torch.nonzero(gains >= gains.max() - _EQUAL)[:, 0]
    return int(best[rows[best].argmin()])


def _fitting(max_bytes: int, numbers: int) -> int:
    return max(1, max_bytes // (_DOUBLE * numbers))


def check_sizes(k: int, num_samples: int, candidates: int | None, max_bytes: int) -> None:
    """Check the sizes of a joint choice.

    Args:
        k: Number of rows to pick.
        num_samples: Number of label configurations.
        candidates: Number of rows to consider, or None.
        max_bytes: Limit of temporary memory.

    Raises:
        InvalidInput: A size is below 1, or candidates is below k.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; ask for at least 1 row.")
    if candidates is not None and candidates < k:
        raise InvalidInput(f"candidates is {candidates} with k = {k}; at least k rows must be considered.")
    if num_samples < 1 or max_bytes < 1:
        raise InvalidInput(f"num_samples is {num_samples} and max_bytes {max_bytes}; both must be at least 1.")
