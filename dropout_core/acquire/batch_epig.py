"""EPIG of a batch: rows chosen together for what their labels tell about the labels of target inputs.

BatchBALD measures what the labels y_1 … y_n tell about the passes, and so about every input of the network. Batch EPIG
measures what they tell about the label y* of a target: the mean over the targets of I(y_1 … y_n; y*), which for one row
is its EPIG. A row that teaches much only about irrelevant inputs, such as junk in a scraped pool, scores 0.
"""

import torch
from torch import Tensor

from dropout_core.acquire.configurations import Configurations, entropy_terms
from dropout_core.acquire.constraints import NO_LIMITS, Constraints, OpenRows, open_rows
from dropout_core.acquire.epig import check_targets
from dropout_core.acquire.joint import JointChoice, check_sizes, first_best, joint_choice
from dropout_core.acquire.probabilities import normalized

_DOUBLE = 8
# columns of targets at once: enough for a matrix product to be one
_COLUMNS = 256


def batch_epig(
    probs: Tensor,
    target_probs: Tensor,
    k: int,
    *,
    seed: int = 0,
    num_samples: int = 320,
    limits: Constraints = NO_LIMITS,
    max_bytes: int = 2**24,
) -> JointChoice:
    """Greedily pick k rows whose labels together tell most about the labels of the targets.

    The picks maximise the mean over the targets y* of I(y_1 … y_k; y*). The information is not submodular: two labels
    can tell together what neither tells alone. Every row is therefore scored again at each pick, and time grows as
    k · B · num_samples · T · C · M · C*. Reduce the pool by `epig` first.

    Args:
        probs: Class probabilities of the pool, [T, B, C].
        target_probs: Class probabilities of inputs from where the model will be used, [T, M, C*], from the same passes.
        k: Number of rows to pick.
        seed: Seed of the drawn label configurations.
        num_samples: Number of label configurations of the picked rows. All are held while they fit; beyond, they are
            drawn, as in `batchbald`.
        limits: Excluded rows, costs and quotas. With costs, each pick adds the most information per cost.
        max_bytes: Limit of temporary memory, beside the probabilities, the targets and the configurations.

    Returns:
        The picks, with scores in nats. A score is at most the mean mutual information of the targets' own labels with
        the passes. The lower index wins among equal gains.

    Raises:
        InvalidInput: The arguments are not probabilities, have different numbers of passes, there are no targets, or k
            is below 1.

    References:
        Bickford Smith et al. 2023, arXiv 2304.08151, eq. 8, for the joint label of a batch; Kirsch et al. 2019,
        arXiv 1906.08158, section 3, for the greedy choice and the configurations.
    """
    check_targets(probs, target_probs)
    check_sizes(k, num_samples, None, max_bytes)
    num_rows = probs.shape[1]
    limits.check(num_rows)
    costs = probs.new_ones(num_rows, dtype=torch.float64) if limits.costs is None else limits.costs.to(probs.device)
    still = OpenRows(open_rows(num_rows, limits.exclude).to(probs.device), limits)
    information = _TargetInformation(Configurations(probs, seed, num_samples), normalized(target_probs), max_bytes)
    scores: list[float] = []
    while len(scores) < k and bool(still.keep.any()):
        if scores:
            information.state.extend()
        rows = still.keep.nonzero()[:, 0]
        so_far = information.of(None)
        gains = torch.stack([information.of(normalized(probs[:, row])) for row in rows]) - so_far
        best = first_best(gains / costs[rows], rows)
        scores.append(max(float(so_far + gains[best]), scores[-1] if scores else 0.0))
        information.state.picks.append(int(rows[best]))
        still.take(int(rows[best]))
    return joint_choice(information.state.picks, scores, information.most, probs.device)


class _TargetInformation:
    """Information, in nats, of the labels of the picked rows and of one more row about the label of a target."""

    def __init__(self, state: Configurations, targets: Tensor, max_bytes: int) -> None:
        self.state, self._columns, self._max_bytes = state, targets.flatten(1), max_bytes
        self._num_targets = targets.shape[1]
        self._marginal = torch.special.entr(targets.mean(0)).sum(-1).mean()
        self.most = float(self._marginal - torch.special.entr(targets).sum(-1).mean())

    def of(self, labels: Tensor | None) -> Tensor:
        """Return H[y*] − H[y, y* | configuration] + H[y | configuration], averaged over targets; `labels` is p of y."""
        likelihood = torch.ones_like(self._columns[:, :1]) if labels is None else labels
        num_passes, num_classes = likelihood.shape
        at_once = max(1, self._max_bytes // (_DOUBLE * num_classes * (2 * num_passes + 3 * _COLUMNS)))
        joint, own = torch.zeros_like(self._marginal), torch.zeros_like(self._marginal)
        for masses, posteriors in self.state.pieces(at_once):
            left = (posteriors[:, None, :] * likelihood.T).flatten(0, 1)
            weights = masses.repeat_interleave(num_classes)
            own += weights @ torch.special.entr(left.sum(-1))
            for few in self._columns.split(_COLUMNS, dim=1):
                joint += weights @ entropy_terms(left @ few).sum(-1)
        information: Tensor = (self._marginal - joint / self._num_targets + own).clamp_min(0.0)
        return information
