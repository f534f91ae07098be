"""EPIG: how much the label of a row tells about the labels of target inputs, rather than about the weights."""

import torch
from torch import Tensor

from dropout_core.acquire.probabilities import check_probabilities, normalized
from dropout_core.errors import InvalidInput

_DOUBLE = 8


def epig(probs: Tensor, target_probs: Tensor, *, max_bytes: int = 2**24) -> Tensor:
    """Return the expected predictive information gain: the mean over the targets x* of I(y; y*).

    I(y; y*) = H[E p] + H[E p*] − H[E p p*], with expectations over the passes. A hundred targets usually suffice: time
    grows as B · M · C · C* · T.

    Args:
        probs: Class probabilities of the pool, [T, B, C]. They are divided by their sum over classes.
        target_probs: Class probabilities of inputs from where the model will be used, [T, M, C*]. Pass t of both must
            use the same masks.
        max_bytes: Limit of temporary memory, beside the inputs, the targets in float64 and a few numbers per row.

    Returns:
        Scores in nats, float64 [B], between 0 and log C.

    Raises:
        InvalidInput: The arguments are not probabilities, have different numbers of passes, or there are no targets.

    References:
        Bickford Smith et al. 2023, arXiv 2304.08151, section 4.
    """
    check_targets(probs, target_probs)
    if max_bytes < 1:
        raise InvalidInput(f"max_bytes is {max_bytes}; it must be at least 1.")
    num_passes, num_rows, num_classes = probs.shape
    targets = normalized(target_probs)
    found = torch.zeros(num_rows, dtype=torch.float64, device=probs.device)
    marginal = torch.special.entr(targets.mean(0)).sum(-1).mean()
    columns = targets.flatten(1)
    size = max(1, max_bytes // (_DOUBLE * num_classes * (4 * num_passes + 4)))
    for start in range(0, num_rows, size):
        part = normalized(probs[:, start : start + size])
        joint = _joint_entropy(part, columns, max_bytes) / targets.shape[1]
        own = torch.special.entr(part.mean(0)).sum(-1)
        found[start : start + size] = (own + marginal - joint).clamp_min(0.0)
    return found


def check_targets(probs: Tensor, target_probs: Tensor) -> None:
    """Check that a pool and targets are probabilities from the same passes.

    Args:
        probs: Class probabilities of the pool, [T, B, C].
        target_probs: Class probabilities of the targets, [T, M, C*].

    Raises:
        InvalidInput: They are not probabilities, have different numbers of passes, or there are no targets.
    """
    check_probabilities("probs", probs)
    check_probabilities("target_probs", target_probs)
    if len(target_probs) != len(probs) or not target_probs.shape[1]:
        raise InvalidInput(
            f"target_probs has shape {tuple(target_probs.shape)}; [{len(probs)}, targets, classes] is wanted, with "
            "at least one target, from the passes of probs."
        )


def _joint_entropy(part: Tensor, columns: Tensor, max_bytes: int) -> Tensor:
    """Return the sum over targets of H[E p p*], [rows]. columns: [T, targets · classes]."""
    num_passes, num_rows, num_classes = part.shape
    left = part.flatten(1).T / num_passes
    total = torch.zeros(len(left), dtype=torch.float64, device=part.device)
    size = max(1, max_bytes // (_DOUBLE * 3 * len(left)))
    for few in columns.split(size, dim=1):
        total += torch.special.entr(left @ few).sum(-1)
    return total.reshape(num_rows, num_classes).sum(-1)
