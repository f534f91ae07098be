"""Arithmetic of truths that are drawn: a Boolean as the number 0 or 1, or as its probability with the noise off.

`rand_like(x) < keep` is a Bernoulli draw, and a dropout written by hand uses it as a Boolean: negated, chosen by,
multiplied by. Each such use is written here with numbers instead, linear in every truth. It is the same for 0 and 1,
and for a probability it is the expectation of what the truths decide, as long as they are independent.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

_aten = torch.ops.aten

# How an operator is called: a node is added to a graph, or it is run.
OperatorCall = Callable[..., Any]

UNIFORM_COMPARISONS: dict[Any, bool] = {
    _aten.lt.Scalar: True,
    _aten.le.Scalar: True,
    _aten.gt.Scalar: False,
    _aten.ge.Scalar: False,
}
"""Comparisons of a uniform draw with a number, and whether the number is the probability, or what is left of it."""

TENSOR_COMPARISONS: dict[Any, bool] = {
    _aten.lt.Tensor: True,
    _aten.le.Tensor: True,
    _aten.gt.Tensor: False,
    _aten.ge.Tensor: False,
}
"""The same with a tensor for the number; where the draw is the second, the other way round."""

SHAPES = {
    _aten.alias.default,
    _aten.clone.default,
    _aten.contiguous.default,
    _aten.detach.default,
    _aten.expand.default,
    _aten.permute.default,
    _aten.repeat.default,
    _aten.reshape.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.view.default,
}
"""Operators that move values of their first argument and change none."""

_ARITHMETIC = {
    _aten.add.Tensor,
    _aten.div.Scalar,
    _aten.div.Tensor,
    _aten.mul.Scalar,
    _aten.mul.Tensor,
    _aten.rsub.Scalar,
    _aten.sub.Tensor,
}


def probability_below(target: Any, bound: float) -> float:
    """How likely a uniform draw compares so with a number."""
    below = min(1.0, max(0.0, bound))
    return below if UNIFORM_COMPARISONS[target] else 1.0 - below


def is_known(target: Any, args: Sequence[Any], is_truth: Callable[[Any], bool], dtype: torch.dtype) -> bool:
    """Whether a use of a truth can be written with numbers. dtype: of the result.

    A choice must be a truth's, and between finite numbers: 0 · ∞ is none. A sum of Booleans is one, and no sum.
    """
    if target in _CHOICES:
        numbers = [argument for argument in args if isinstance(argument, int | float)]
        return is_truth(args[_CHOICES[target][0]]) and all(map(math.isfinite, numbers))
    if target is _aten.add.Tensor and dtype == torch.bool:
        return False
    return target in SHAPES | _ARITHMETIC | _LOGIC.keys() | {_aten._to_copy.default}


def written(call: OperatorCall, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The result of a known use, its truths given as numbers. dtype: what the use itself would give.

    Where that is no float, the result is a truth again, or a whole number that a truth decides.
    """
    if target is _aten._to_copy.default:
        return call(target, *args, dtype=dtype) if dtype.is_floating_point else args[0]
    rule = _CHOICES[target][1] if target in _CHOICES else _LOGIC.get(target)
    return rule(call, *args) if rule else call(target, *args, **kwargs)


def _negated(call: OperatorCall, truth: Any) -> Any:
    return call(_aten.rsub.Scalar, truth, 1)


def _both(call: OperatorCall, first: Any, second: Any) -> Any:
    return call(_aten.mul.Tensor, first, second)


def _either(call: OperatorCall, first: Any, second: Any) -> Any:
    return call(_aten.sub.Tensor, call(_aten.add.Tensor, first, second), _both(call, first, second))


def _chosen(call: OperatorCall, truth: Any, if_true: Any, if_false: Any) -> Any:
    parts = [_weighted(call, truth, if_true), _weighted(call, _negated(call, truth), if_false)]
    kept = [part for part in parts if part is not None]
    return call(_aten.add.Tensor, *kept) if len(kept) == 2 else (kept or [call(_aten.mul.Scalar, truth, 0)])[0]


def _weighted(call: OperatorCall, truth: Any, value: Any) -> Any:
    if isinstance(value, int | float):
        return call(_aten.mul.Scalar, truth, value) if value != 0 else None
    return call(_aten.mul.Tensor, value, truth)


def _filled(call: OperatorCall, value: Any, truth: Any, fill: Any) -> Any:
    return _chosen(call, truth, fill, value)


_LOGIC: dict[Any, Callable[..., Any]] = {
    _aten.bitwise_not.default: _negated,
    _aten.logical_not.default: _negated,
    _aten.bitwise_and.Tensor: _both,
    _aten.logical_and.default: _both,
    _aten.bitwise_or.Tensor: _either,
    _aten.logical_or.default: _either,
}
# The place of what decides, and the rule.
_CHOICES: dict[Any, tuple[int, Callable[..., Any]]] = {
    _aten.masked_fill.Scalar: (1, _filled),
    _aten.masked_fill.Tensor: (1, _filled),
    _aten.where.Scalar: (0, _chosen),
    _aten.where.ScalarOther: (0, _chosen),
    _aten.where.ScalarSelf: (0, _chosen),
    _aten.where.self: (0, _chosen),
}
