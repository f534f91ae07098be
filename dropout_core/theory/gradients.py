"""What dropout does to the gradient: it grows noisier, and its expectation is that of another loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.theory.linear import check_linear, mask_variance
from dropout_core.theory.subnetworks import factors_of_subnetworks


def gradient_variance_inflation(gradients: Tensor, p: float) -> Tensor:
    """By how much inverted dropout multiplies the variance of a row's gradient: 1 + p / keep · E g² / Var g.

    gradients: [N, *], the gradients of N rows without dropout, for weights that read the dropped units, or make them.
    Moments are over the rows and added up over the weights. Returns a scalar of at least 1 / keep, and infinity where
    all rows have one gradient. A batch must be so many times larger to have the gradient noise it had. Of zero-mean
    gradients, as near an optimum, it is 1 / keep.

    Each weight's gradient is multiplied by one factor m / keep. That is exact for a loss that is linear in what is
    dropped, and for others leaves out that the error signal is noisy, too: squared_error_gradient_moments has it all.
    Source: the noise is observed in Srivastava et al. 2014, JMLR 15, appendix A.2; derived from the moments of a mask.
    """
    variance = mask_variance(p)
    if gradients.dim() < 1 or len(gradients) < 2:
        raise InvalidInput(f"the gradients have shape {list(gradients.shape)}; [N, *], N at least 2, is wanted.")
    own = (gradients - gradients.mean(0)).square().mean(0).sum()
    return 1.0 + variance * gradients.square().mean(0).sum() / own if variance > 0 else torch.ones_like(own)


def squared_error_gradient_moments(x: Tensor, y: Tensor, weight: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Mean and variance over masks of the gradient of ‖y − W (n ⊙ x)‖² by W, inverted form: each [B, O, C].

    With r = y − W x, a_oi = w_oi x_i and s_o = Σ_j a_oj²:
    mean −2 x_i (r_o − p / keep · a_oi), where the second part is the gradient of equivalent_l2_penalty;
    variance 4 x_i² · (p / keep · (r_o − p / keep · a_oi)² + p / keep² · (s_o − a_oi²)).
    The noise does not go to 0 with the residual r: the last part stays.
    x: [B, C]. y: [B, O]. weight: [O, C]. p below 1.
    Source: derived from the first two moments of n; the tests enumerate the masks.
    """
    check_linear(x, weight)
    if y.shape != (len(x), len(weight)):
        raise InvalidInput(f"the targets have shape {list(y.shape)}; [{len(x)}, {len(weight)}] is wanted.")
    ratio = mask_variance(p)
    parts = weight * x.unsqueeze(1)
    pull = (y - x @ weight.T).unsqueeze(2) - ratio * parts
    others = parts.square().sum(2, keepdim=True) - parts.square()
    rows = 2.0 * x.unsqueeze(1)
    return -rows * pull, rows.square() * (ratio * pull.square() + ratio / (1.0 - p) * others)


def gradient_bias(loss: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, p: float) -> Tensor:
    """E ∇ loss((m ⊙ x / keep) Wᵀ) − ∇ loss(x Wᵀ), by W: what the expected gradient under dropout points elsewhere.

    By enumeration of the masks. loss: [B, O] → a scalar that is a sum or mean over rows, such as
    lambda z: F.cross_entropy(z, targets); torch.func.vmap must take it. x: [B, C], up to 20 units. weight: [O, C]. p
    below 1. Returns [O, C]. It is 0 for a loss that is linear in z, the gradient of equivalent_l2_penalty for the mean
    squared error of one output, and for a smooth loss about the gradient of mean ½ · loss″(z) · monte_carlo_variance.
    SGD with dropout thus minimises another function than the loss without.
    Source: Wager et al. 2013, arXiv 1307.1493, whose penalty R this is the gradient of.
    """
    check_linear(x, weight)

    def expected(w: Tensor, factors: Tensor, probabilities: Tensor) -> Tensor:
        losses: Tensor = torch.func.vmap(lambda factor: loss((x * factor) @ w.T))(factors)
        return losses @ probabilities

    bias: Tensor = -torch.func.grad(lambda w: loss(x @ w.T))(weight)
    for factors, probabilities in factors_of_subnetworks(x, p):
        bias = bias + torch.func.grad(expected)(weight, factors, probabilities)
    return bias
