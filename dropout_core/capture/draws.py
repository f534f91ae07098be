"""Random operators, rewritten so that each law has one spelling and a template that holds no garbage.

Every normal draw becomes `randn_like(template)`, every uniform one `rand_like(template)`, every exponential one
`exponential(template)` at rate 1; what stands around them is arithmetic. A template made of sizes alone is zeros, and
so is all memory that is not initialised. Constant "draws", of probability 0 or 1, become constants.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
Number = float | int


def _zeros(
    size: Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> Tensor:
    return torch.zeros(size, dtype=dtype, device=device)


def _zeros_like(
    like: Tensor, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> Tensor:
    return torch.zeros_like(like, dtype=dtype, device=device)


def _new_zeros(
    like: Tensor, size: Sequence[int], *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> Tensor:
    return like.new_zeros(size, dtype=dtype, device=device)


def _rand(size: Sequence[int], **given: Any) -> Tensor:
    return torch.rand_like(_zeros(size, **given))


def _randn(size: Sequence[int], **given: Any) -> Tensor:
    return torch.randn_like(_zeros(size, **given))


def _of_another_type(draw: Any) -> Any:
    """A draw like a template, but of another type."""

    def drawn(like: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Any:
        return NotImplemented if dtype in (None, like.dtype) else draw(like.to(dtype))

    return drawn


def _scaled(drawn: Tensor, scale: Number | Tensor, shift: Number | Tensor) -> Tensor:
    if isinstance(scale, Tensor) or scale != 1:
        drawn = drawn * scale
    return drawn + shift if isinstance(shift, Tensor) or shift != 0 else drawn


def _uniform(like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return _scaled(torch.rand_like(like), high - low, low)


def _normal(like: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return _scaled(torch.randn_like(like), std, mean)


def _normal_of_size(mean: float, std: float, size: Sequence[int], **given: Any) -> Tensor:
    return _scaled(_randn(size, **given), std, mean)


def _normal_around(mean: Tensor, std: float = 1.0) -> Tensor:
    return _scaled(torch.randn_like(mean), std, mean)


def _normal_as_wide_as(mean: float, std: Tensor) -> Tensor:
    return _scaled(torch.randn_like(std), std, mean)


def _normal_around_as_wide_as(mean: Tensor, std: Tensor) -> Tensor:
    return _scaled(torch.randn_like(torch.broadcast_tensors(mean, std)[0]), std, mean)


def _exponential(like: Tensor, rate: float = 1.0) -> Any:
    return NotImplemented if rate == 1 else _aten.exponential.default(like) / rate


def _bernoulli(like: Tensor, probability: float = 0.5) -> Any:
    if not 0 < probability < 1:
        return torch.full_like(like, probability)
    if not like.is_floating_point():
        return (torch.rand_like(like.float()) < probability).to(like.dtype)
    return NotImplemented


def _bernoulli_of(like: Tensor, probability: Tensor) -> Tensor:
    spread = probability.expand(like.shape)
    if not like.is_floating_point():
        return (torch.rand_like(spread) < spread).to(like.dtype)
    return torch.bernoulli(spread.to(like.dtype))


def _rrelu(x: Tensor, lower: float = 0.125, upper: float = 1 / 3, training: bool = False) -> Any:
    """Randomized leaky ReLU: x r for x ≤ 0 with a slope r uniform in [lower, upper) (Xu et al. 2015)."""
    return _rrelu_and_slope(x, x, lower, upper, training)[0] if training else NotImplemented


def _rrelu_and_slope(x: Tensor, _: Tensor, lower: float = 0.125, upper: float = 1 / 3, training: bool = False) -> Any:
    if not training:
        return NotImplemented
    slope = torch.where(x <= 0, _uniform(x, lower, upper), 1.0)
    return x * slope, slope


DRAWS: dict[Any, Any] = {
    _aten.empty.memory_format: _zeros,
    _aten.empty_like.default: _zeros_like,
    _aten.new_empty.default: _new_zeros,
    _aten.rand.default: _rand,
    _aten.randn.default: _randn,
    _aten.rand_like.default: _of_another_type(torch.rand_like),
    _aten.randn_like.default: _of_another_type(torch.randn_like),
    _aten.uniform.default: _uniform,
    _aten.normal_functional.default: _normal,
    _aten.normal.float_float: _normal_of_size,
    _aten.normal.Tensor_float: _normal_around,
    _aten.normal.float_Tensor: _normal_as_wide_as,
    _aten.normal.Tensor_Tensor: _normal_around_as_wide_as,
    _aten.exponential.default: _exponential,
    _aten.bernoulli.p: _bernoulli,
    _aten.bernoulli.Tensor: _bernoulli_of,
    _aten.rrelu.default: _rrelu,
    _aten.rrelu_with_noise_functional.default: _rrelu_and_slope,
}
