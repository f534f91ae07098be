"""Dropout on the hidden layer of a linear network: shrinkage of the singular values of the map it computes.

The network is U (n ⊙ V x) with r hidden units, first = V [r, I] and second = U [O, r], n = m / (1 − p) with
m ~ Bernoulli(1 − p) for each hidden unit, on white inputs: E x xᵀ = 1. Whiten others first, or take
equivalent_l2_penalty(x @ first.T, second, p), which needs no whiteness.

Source: Mianjy, Arora, Vidal 2018, "On the implicit bias of dropout", arXiv 1806.09777; the squared nuclear norm as a
convex envelope, for deeper linear networks too: Mianjy, Arora 2019, arXiv 1905.11887.
"""

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.theory.linear import mask_variance


def linear_network_penalty(first: Tensor, second: Tensor, p: float) -> Tensor:
    """What dropout adds to the squared error: p / (1 − p) · Σ_j ‖u_j‖² ‖v_j‖², over the hidden units j.

    E ‖y − U (n ⊙ V x)‖² = E ‖y − U V x‖² + this. first: V [r, I]. second: U [O, r]. p below 1. Returns a scalar.
    """
    if first.dim() != 2 or second.dim() != 2 or len(first) != second.shape[1]:
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise InvalidInput(f"the weights have shapes {shapes}; [r, I] and [O, r] is wanted.")
    return mask_variance(p) * (first.square().sum(1) * second.square().sum(0)).sum()


def nuclear_norm_penalty(weight: Tensor, width: int, p: float) -> Tensor:
    """The least linear_network_penalty of any U V = weight with r = width hidden units: p / (1 − p) · ‖weight‖_*² / r.

    ‖·‖_* is the sum of the singular values. It is reached where all units have the same ‖u_j‖ ‖v_j‖, which
    equalised_factors computes. weight: [O, I]. Returns a scalar. p below 1. Raises InvalidInput for a width below the
    rank of the weight, at which there is no such U V.
    """
    _check_width(weight, width)
    norm: Tensor = torch.linalg.svdvals(weight).sum()
    return mask_variance(p) / width * norm.square()


def equalised_factors(weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """V [r, I] and U [O, r], r = width, with U V = weight and the least penalty: all ‖u_j‖² = ‖v_j‖² = ‖weight‖_* / r.

    Weights for a linear network that dropout leaves where they are, as far as the map goes. Raises InvalidInput for a
    width below the rank of the weight. In float64 on the CPU inside, with r − 1 rotations.
    """
    _check_width(weight, width)
    left, values, right = torch.linalg.svd(weight.double().cpu(), full_matrices=False)
    values = values[:width]
    rank = len(values)
    root, rotation = values.sqrt(), _equalising_rotation(torch.cat([values, values.new_zeros(width - rank)]))[:rank]
    return (rotation.T * root @ right[:rank]).to(weight), (left[:, :rank] * root @ rotation).to(weight)


def nuclear_norm_shrinkage(target: Tensor, width: int, p: float) -> Tensor:
    """The map U V [O, I] at the global minimum of the expected squared error: target with its singular values shrunk.

    σ_i → max(σ_i − α, 0) for the largest r = width of them, α = λ Σ_{i ≤ k} σ_i / (r + λ k), λ = p / (1 − p), with k
    the number of those that stay above 0. target: E y xᵀ [O, I], the least squares map on white inputs. Small
    directions vanish: dropout lowers the rank. It is the minimum of ‖target − W‖² + nuclear_norm_penalty(W, width, p).
    p below 1. Raises InvalidInput for a width below 1.
    """
    _check_matrix(target, width)
    ratio = mask_variance(p)
    left, values, right = torch.linalg.svd(target, full_matrices=False)
    values = values[:width]
    ranks = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    # As a function of k, α rises as long as the next singular value is above it: its largest is the one wanted.
    alpha: Tensor = (ratio * values.cumsum(0) / (width + ratio * ranks)).max()
    shrunk: Tensor = left[:, :width] * (values - alpha).clamp(min=0) @ right[:width]
    return shrunk


def _equalising_rotation(values: Tensor) -> Tensor:
    """An orthogonal R [r, r] such that all of Rᵀ diag(values) R's diagonal is the mean of the values.

    Each rotation takes a unit below the mean and one above it, and brings the first to the mean: cos² θ · low +
    sin² θ · high. The two are not yet coupled: every rotation so far finished one of its units.
    """
    mean, diagonal = values.mean(), values.clone()
    rotation = torch.eye(len(values), dtype=values.dtype)
    for _ in range(len(values) - 1):
        low, high = int(diagonal.argmin()), int(diagonal.argmax())
        below, above = mean - diagonal[low], diagonal[high] - mean
        if below <= 0 or above <= 0:
            break
        cosine, sine = (above / (above + below)).sqrt(), (below / (above + below)).sqrt()
        first, second = rotation[:, low].clone(), rotation[:, high].clone()
        rotation[:, low], rotation[:, high] = cosine * first + sine * second, cosine * second - sine * first
        diagonal[low], diagonal[high] = mean, diagonal[high] - below
    return rotation


def _check_matrix(weight: Tensor, width: int) -> None:
    if weight.dim() != 2 or weight.numel() == 0:
        raise InvalidInput(f"the matrix has shape {list(weight.shape)}; [O, I] is wanted.")
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise InvalidInput(f"width is {width!r}; a whole number of at least 1 is wanted.")


def _check_width(weight: Tensor, width: int) -> None:
    _check_matrix(weight, width)
    rank = int(torch.linalg.matrix_rank(weight.detach()))
    if width < rank:
        raise InvalidInput(f"{width} hidden units make no map of rank {rank}; a width of at least {rank} is wanted.")
