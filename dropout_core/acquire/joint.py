"""BatchBALD: rows chosen together, so that what they teach overlaps little.

The labels y_1 … y_n of the chosen rows inform about the pass t that made them: I(y_1 … y_n; t), t uniform over the T
passes. Every probability of a configuration of labels is kept as a posterior over the passes, w_t = P(t | y), which
neither underflows nor needs a logarithm of zero:

* of the rows chosen so far, I = log T − E_y H[w];
* a further row adds E_y (H[Σ_t w_t p_t] − Σ_t w_t H[p_t]), never less than 0 and never more than E_y H[w].

E_y is a sum over all configurations while they fit, and a mean over drawn ones beyond.

All rows must share their passes (one set of masks a pass, whatever the row). With masks of its own for each row a
row and its copy look independent, and nothing here keeps them apart.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dropout_core.acquire.probabilities import checked_probabilities, doubled
from dropout_core.errors import InvalidInput
from dropout_core.noise import uniform

SATURATION = 0.9
# a counter site of its own: a network's sites count from 0, and the random score has the last
_SITE = 2**32 - 2
# gains this close, in nats, are equal: the sums behind them are rounded at 1e-15
_EQUAL = 1e-12
# rows scored before the best gain is looked at again; the choice must not depend on max_bytes, so this does not
_BLOCK = 64
_DOUBLE = 8


@dataclass(frozen=True)
class JointChoice:
    """Rows in the order they were picked.

    indices: int64 [k]. scores: float64 [k], nats: the mutual information of the labels of all rows up to and with
    this one. shares: float64 [k], scores / log T, 0 … 1; 1 with one pass, which has nothing to tell.
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
    candidates: how many rows, the best by mutual information alone, are considered; None: all.
    max_bytes: of temporary memory, beside probs, the configurations and a few numbers for each row.

    A row's gain only falls as others are picked, so a row whose older gain is below the best new one is not scored
    again; with drawn configurations this can swap rows whose gains differ by less than the sampling error.
    Copies of a row are not shunned as such. Where the mutual information is tiny, labels hardly tell the passes apart
    and a second label of the same input teaches nearly as much as the first: the copy can be the right pick.

    Raises InvalidInput for anything that is not probabilities, k below 1, and candidates below k.
    Source: Kirsch, van Amersfoort, Gal 2019 (arXiv 1906.08158), section 3, algorithm 1; Minoux 1978 (older gains).
    """
    checked_probabilities("probs", probs)
    _checked_sizes(k, num_samples, candidates, max_bytes)
    num_passes, num_rows, _ = probs.shape
    gains = _bald(probs, max_bytes)
    # stable, so that the lower index comes first among equals
    rows = torch.argsort(gains, descending=True, stable=True)[:candidates]
    state = _Configurations(probs, seed, num_samples)
    gains = gains[rows]
    scores: list[float] = []
    for number in range(min(k, num_rows)):
        if number:
            _renew(state, probs, rows, gains, max_bytes)
        best = _first_best(gains, rows)
        scores.append(max(state.information() + float(gains[best]), scores[-1] if scores else 0.0))
        gains[best] = -math.inf
        state.picks.append(int(rows[best]))
        if number + 1 < min(k, num_rows):
            state.extend()
    found = torch.tensor(scores, dtype=torch.float64, device=probs.device)
    shares = found / math.log(num_passes) if num_passes > 1 else torch.ones_like(found)
    return JointChoice(torch.tensor(state.picks, dtype=torch.int64, device=probs.device), found, shares)


class _Configurations:
    """Configurations of labels of the picked rows: their masses [M], and posteriors over the passes [M, T]."""

    def __init__(self, probs: Tensor, seed: int, num_samples: int) -> None:
        self.picks: list[int] = []
        self._probs, self._seed, self._num_samples = probs, seed, num_samples
        self._num_passes = len(probs)
        self._drawn_from: Tensor | None = None
        self._start(1)

    def information(self) -> float:
        """I(y; t) of the picked rows, nats."""
        left = torch.special.entr(self.posteriors).sum(-1) @ self.masses
        return min(max(math.log(self._num_passes) - float(left), 0.0), math.log(self._num_passes))

    def extend(self) -> None:
        """Take in the labels of the last pick."""
        if self._drawn_from is not None:
            self._draw(len(self.picks) - 1)
        elif len(self.masses) * self._probs.shape[-1] <= self._num_samples:
            self._enumerate()
        else:
            each = math.ceil(self._num_samples / self._num_passes)
            self._start(each * self._num_passes)
            self._drawn_from = torch.arange(self._num_passes, device=self._probs.device).repeat(each)
            for number in range(len(self.picks)):
                self._draw(number)

    def _start(self, size: int) -> None:
        even = torch.ones(size, self._num_passes, dtype=torch.float64, device=self._probs.device)
        self.masses, self.posteriors = even[:, 0] / size, even / self._num_passes

    def _enumerate(self) -> None:
        labels = doubled(self._probs[:, self.picks[-1]])
        joint = (self.posteriors[:, None, :] * labels.T).flatten(0, 1)
        evidence = joint.sum(-1)
        masses = self.masses.repeat_interleave(labels.shape[-1]) * evidence
        alive = masses > 0
        self.masses, self.posteriors = masses[alive], joint[alive] / evidence[alive, None]

    def _draw(self, number: int) -> None:
        labels = doubled(self._probs[:, self.picks[number]])
        below = labels.cumsum(-1)
        position = torch.tensor([number], device=labels.device)
        u = uniform(self._seed, _SITE, position, (len(self.masses),))[0]
        # the first class whose cumulated probability is above u: one of probability 0 is never drawn
        drawn = ((below / below[:, -1:])[self._drawn_from] <= u[:, None]).sum(-1)
        joint = self.posteriors * labels.T[drawn]
        self.posteriors = joint / joint.sum(-1, keepdim=True)


def _renew(state: _Configurations, probs: Tensor, rows: Tensor, gains: Tensor, max_bytes: int) -> None:
    """Score the rows again, in place, in the order of their older gains, while one can still be the best."""
    order = torch.argsort(gains, descending=True, stable=True)
    best = -math.inf
    for block in order.split(_BLOCK):
        hopeful = block[(gains[block] >= best - _EQUAL) & (gains[block] > -math.inf)]
        if not len(hopeful):
            return
        gains[hopeful] = _gains(state, probs, rows[hopeful], max_bytes)
        best = max(best, float(gains[hopeful].max()))


def _gains(state: _Configurations, probs: Tensor, rows: Tensor, max_bytes: int) -> Tensor:
    """What each of the rows adds to the picked ones, nats, float64 [rows]."""
    num_passes, _, num_classes = probs.shape
    mean_posterior = state.masses @ state.posteriors
    found = []
    for few in rows.split(_fitting(max_bytes, 4 * num_passes * num_classes)):
        part = doubled(probs[:, few])
        aleatoric = mean_posterior @ torch.special.entr(part).sum(-1)
        columns = part.flatten(1)
        total = torch.zeros_like(columns[0])
        for masses, posteriors in _pieces(state, _fitting(max_bytes, 4 * columns.shape[1])):
            predicted = posteriors @ columns
            total += masses @ _entropy_terms(predicted)
        found.append((total.reshape(len(few), num_classes).sum(-1) - aleatoric).clamp_min(0.0))
    return torch.cat(found)


def _pieces(state: _Configurations, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(state.masses.split(size), state.posteriors.split(size), strict=True)


def _entropy_terms(p: Tensor) -> Tensor:
    """−p log p, and 0 at p = 0: special.entr, in half its time."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log_().mul_(p).neg_()


def _bald(probs: Tensor, max_bytes: int) -> Tensor:
    """The mutual information of each row alone, nats, float64 [B]."""
    found = []
    for part in probs.split(_fitting(max_bytes, 4 * probs.shape[0] * probs.shape[2]), dim=1):
        exact = doubled(part)
        expected = torch.special.entr(exact).sum(-1).mean(0)
        found.append((torch.special.entr(exact.mean(0)).sum(-1) - expected).clamp_min(0.0))
    return torch.cat(found)


def _first_best(gains: Tensor, rows: Tensor) -> int:
    """The place of the lowest row among those of the largest gain."""
    best = torch.nonzero(gains >= gains.max() - _EQUAL)[:, 0]
    return int(best[rows[best].argmin()])


def _fitting(max_bytes: int, numbers: int) -> int:
    return max(1, max_bytes // (_DOUBLE * numbers))


def _checked_sizes(k: int, num_samples: int, candidates: int | None, max_bytes: int) -> None:
    if k < 1:
        raise InvalidInput(f"k is {k}; ask for at least 1 row.")
    if candidates is not None and candidates < k:
        raise InvalidInput(f"candidates is {candidates} with k = {k}; at least k rows must be considered.")
    if num_samples < 1 or max_bytes < 1:
        raise InvalidInput(f"num_samples is {num_samples} and max_bytes {max_bytes}; both must be at least 1.")
