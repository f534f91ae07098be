"""A linear model behind dropout: its variance over masks, and the penalty that its expected squared error contains.

With a factor n_i on each unit, the model is W (n ⊙ x). The forms: "inverted", n = m / (1 − p) with mean 1, and
"classic", n = m with mean keep = 1 − p, where m ~ Bernoulli(1 − p).
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.layers.base import checked_rate

MaskScale = Literal["inverted", "classic"]


def mask_variance(p: float, form: MaskScale = "inverted") -> float:
    """The variance of a unit's factor: p / keep in the inverted form (p below 1), p · keep in the classic one.

    Source: Srivastava et al. 2014, JMLR 15, sections 9.1 and 10.
    """
    _check_form(form)
    p = checked_rate(p, below_one=form == "inverted")
    return p / (1.0 - p) if form == "inverted" else p * (1.0 - p)


def _mask_mean(p: float, form: MaskScale) -> float:
    _check_form(form)
    return 1.0 if form == "inverted" else 1.0 - p


def monte_carlo_variance(x: Tensor, weight: Tensor, p: float, form: MaskScale = "inverted") -> Tensor:
    """The variance over masks of W (n ⊙ x), in closed form: mask_variance(p, form) · W² x².

    x: [B, C], what comes into the dropout. weight: [O, C], of the layer behind it. Returns [B, O], in the squared unit
    of the output: what infinitely many passes of Monte Carlo dropout would say of that layer. The units are drawn
    independently, and nothing nonlinear lies between dropout and output; a bias changes nothing.
    Source: Wang, Manning 2013, "Fast dropout training", section 2, in both forms.
    """
    check_linear(x, weight)
    return mask_variance(p, form) * (x.square() @ weight.square().T)


def equivalent_l2_penalty(x: Tensor, weight: Tensor, p: float, form: MaskScale = "inverted") -> Tensor:
    """What dropout adds to the squared error of a linear model: mask_variance(p, form) · Σ_i mean(x_i²) · ‖w_i‖².

    E ‖y − W (n ⊙ x)‖² = ‖y − E[n] W x‖² + this, as means over the rows, the squares added up over the outputs; E[n] is
    1 inverted and keep classic. An adaptive L2 penalty: a feature counts by its mean square, so that its unit does not
    matter. x: [B, C]. weight: [O, C]. Returns a scalar, differentiable in both, to be added to a loss in place of
    drawing masks.
    Source: Srivastava et al. 2014, JMLR 15, section 9.1; Wager et al. 2013, arXiv 1307.1493.
    """
    check_linear(x, weight)
    return (x.square().mean(0) * weight.square().sum(0)).sum() * mask_variance(p, form)


def dropout_least_squares(x: Tensor, y: Tensor, p: float, form: MaskScale = "inverted") -> Tensor:
    """The weights [O, C] to which linear regression with dropout on its inputs converges, in closed form.

    W = ((XᵀX + p / keep · diag(XᵀX))⁻¹ XᵀY)ᵀ, the minimum of E ‖y − W (n ⊙ x)‖²; ÷ keep in the classic form, whose
    eval mode multiplies by keep. x: [B, C]. y: [B, O]. p below 1. No bias: centre both. A feature that is always 0 has
    the weight 0; at p = 0 the solution of least norm. Correlated features share a weight: see grouping_bound.
    Source: as equivalent_l2_penalty.
    """
    _check_regression(x, y)
    gram = x.T @ x
    solved: Tensor = torch.linalg.pinv(gram + mask_variance(p) * gram.diag().diag(), hermitian=True) @ (x.T @ y)
    return solved.T / _mask_mean(p, form)


def grouping_bound(x: Tensor, y: Tensor, p: float) -> Tensor:
    """How far apart dropout lets the weights of correlated features be: keep / p · √(2 (1 − c_ij)) · ‖Y‖, [C, C].

    With W = dropout_least_squares(x, y, p) and v_i = ‖x_i‖ · w_i, the weight of a feature of norm 1, it bounds
    ‖v_i − v_j‖, the norm over outputs. c is the cosine of two columns of x: their correlation, where they are centred.
    Features that say the same (c = 1) have the same v, which least squares without dropout does not ask for.
    x: [B, C]. y: [B, O]. p between 0 and 1, neither of them.
    Source: derived as Zou, Hastie 2005, "Regularization and variable selection via the elastic net", theorem 1, from
    v_i = keep / p · (x_i / ‖x_i‖) · residual.
    """
    _check_regression(x, y)
    variance = mask_variance(p)
    if variance == 0:
        raise InvalidInput("p is 0; without dropout nothing holds weights together: a number above 0 is wanted.")
    columns = F.normalize(x.T, dim=1)
    # Differences, not 1 − c, whose rounding error of 1e-16 would leave equal features 1e-8 apart.
    apart = torch.cdist(columns, columns, compute_mode="donot_use_mm_for_euclid_dist")
    bound: Tensor = apart * y.norm() / variance
    return bound


def check_linear(x: Tensor, weight: Tensor) -> None:
    """Raise InvalidInput unless x is [B, C] and weight [O, C]."""
    if weight.dim() != 2:
        raise InvalidInput(f"the weight has shape {list(weight.shape)}; [O, C] is wanted.")
    if x.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise InvalidInput(f"the input has shape {list(x.shape)}; [B, {weight.shape[1]}] is wanted.")


def _check_form(form: str) -> None:
    if form not in get_args(MaskScale):
        raise InvalidInput(f"form is {form!r}; it is one of {', '.join(get_args(MaskScale))}.")


def _check_regression(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2:
        raise InvalidInput(f"the input has shape {list(x.shape)}; [B, C] is wanted.")
    if y.dim() != 2 or len(y) != len(x):
        raise InvalidInput(f"the targets have shape {list(y.shape)}; [{len(x)}, O] is wanted.")
