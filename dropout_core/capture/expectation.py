"""A network's own forward with every draw at its mean: what its noise is that eval mode leaves on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dropout_core.capture.booleans import (
    SHAPES,
    TENSOR_COMPARISONS,
    UNIFORM_COMPARISONS,
    is_known,
    probability_below,
    written,
)
from dropout_core.graph.operators import arguments_by_name

_aten = torch.ops.aten
_Given = dict[str, Any]


class AtExpectation(TorchDispatchMode):
    """Draws such as F.dropout(x, 0.5) or torch.randn_like(x) are their means; a comparison decides by its probability.

    A truth, `rand_like(x) < keep`, stays a Boolean, and the number that it stands for is kept beside it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation here
        self._uniforms, self._shifted, self._truths = _Beside(), _Beside(), _Beside()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MEANS:
            return self._at_mean(func, arguments_by_name(func, args, kwargs))
        if any(argument in self._truths for argument in args):
            return self._decided(func, args, kwargs)
        result = func(*args, **kwargs)
        if args and args[0] in self._uniforms:
            self._follow(_functional(func), args, result)
        if func in TENSOR_COMPARISONS:
            self._compare(func, args, result)
        return self._floored(func, args, result)

    def _at_mean(self, func: Any, given: _Given) -> Any:
        result = _MEANS[func](given)
        if func is _aten.native_dropout.default:
            number = 1.0 - given["p"] if given["train"] is not False else 1.0
            self._truths.put(result[1], torch.full_like(result[0], number))
        elif not result.is_floating_point():
            mean = torch.as_tensor(given["p"]).expand(result.shape)
            self._truths.put(result.copy_(mean > 0.5), mean)
        elif func in _UNIFORM and (given.get("from", 0), given.get("to", 1)) == (0, 1):
            self._uniforms.put(result, result)
        return result

    def _follow(self, func: Any, args: Any, result: Tensor) -> None:
        """Keep what a comparison of a uniform draw stands for, and what is the draw still, or a shifted one."""
        other: Any = args[1] if len(args) > 1 else None
        if result is args[0]:
            self._uniforms.forget(result)
        if func in SHAPES:
            self._uniforms.put(result, result)
        elif func in UNIFORM_COMPARISONS:
            self._truths.put(result, torch.full_like(args[0], probability_below(func, other)))
        elif func is _aten.add.Tensor and isinstance(other, float):
            self._shifted.put(result, torch.full_like(result, other))

    def _compare(self, func: Any, args: Any, result: Tensor) -> None:
        """Keep what a comparison with a tensor stands for, where each draw decides for itself."""
        first, second = args
        is_below = TENSOR_COMPARISONS[func] == (first in self._uniforms)
        uniform, bound = (first, second) if first in self._uniforms else (second, first)
        if uniform in self._uniforms and uniform.shape == result.shape:
            below = bound.to(uniform.dtype).clamp(0, 1).expand(result.shape)
            self._truths.put(result, below if is_below else 1 - below)

    def _floored(self, func: Any, args: Any, result: Any) -> Any:
        """`floor(keep + uniform)` is keep."""
        if _functional(func) is _aten.floor.default and args[0] in self._shifted:
            result.copy_(self._shifted.of(args[0]))
        return result

    def _decided(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operator on truths: on their numbers where it is known, else on the Booleans."""
        known = _functional(func)
        plain = known(*args, **kwargs)
        if not isinstance(plain, Tensor) or not is_known(known, args, self._truths.__contains__, plain.dtype):
            return func(*args, **kwargs)
        numbers = [self._truths.of(argument) if argument in self._truths else argument for argument in args]
        value = written(_run, known, numbers, kwargs, plain.dtype)
        result = plain if known is func else args[0]
        if plain.is_floating_point():
            return result.copy_(value)
        self._truths.put(result.copy_(plain), value)
        return result


class _Beside:
    """Something for a tensor, by its identity; the tensors are held, so that no other takes theirs over."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._kept

    def put(self, tensor: Tensor, value: Tensor) -> None:
        self._kept[id(tensor)] = (tensor, value)

    def forget(self, tensor: Tensor) -> None:
        self._kept.pop(id(tensor), None)

    def of(self, tensor: Tensor) -> Tensor:
        return self._kept[id(tensor)][1]


def _run(target: Any, *args: Any, **kwargs: Any) -> Any:
    return target(*args, **kwargs)


def _functional(func: Any) -> Any:
    """The operator that makes the same values and changes none."""
    packet, overload = func._schema.name.partition("::")[2], func._overloadname
    return getattr(getattr(_aten, packet.removesuffix("_"), None), overload, func) if packet.endswith("_") else func


def _of_size(value: float) -> Callable[[_Given], Tensor]:
    return lambda given: torch.full(given["size"], value, dtype=given.get("dtype"), device=given.get("device"))


def _like(value: float) -> Callable[[_Given], Tensor]:
    return lambda given: torch.full_like(given["self"], value, dtype=given.get("dtype"))


def _in_place(mean: Callable[[_Given], Any]) -> Callable[[_Given], Tensor]:
    return lambda given: given["self"].copy_(torch.as_tensor(mean(given)))


def _dropped(given: _Given) -> tuple[Tensor, Tensor]:
    value: Tensor = given["input"]
    return value.clone(), torch.ones_like(value, dtype=torch.bool)


def _rrelu(given: _Given) -> Tensor:
    value, slope = given["self"], (given.get("lower", 0.125) + given.get("upper", 1 / 3)) / 2
    return torch.where(value <= 0, value * slope, value)


_UNIFORM = {_aten.rand.default, _aten.rand_like.default, _aten.uniform_.default}
# An argument equal to its default is left out of a call.
_MEANS: dict[Any, Callable[[_Given], Any]] = {
    _aten.bernoulli.default: lambda given: given["self"].clone(),
    _aten.bernoulli.p: lambda given: torch.full_like(given["self"], given["p"]),
    _aten.bernoulli_.Tensor: _in_place(lambda given: given["p"]),
    _aten.bernoulli_.float: _in_place(lambda given: given.setdefault("p", 0.5)),
    _aten.exponential_.default: _in_place(lambda given: 1 / given.get("lambd", 1.0)),
    _aten.native_dropout.default: _dropped,
    _aten.normal.Tensor_Tensor: lambda given: torch.broadcast_tensors(given["mean"], given["std"])[0].clone(),
    _aten.normal.Tensor_float: lambda given: given["mean"].clone(),
    _aten.normal.float_Tensor: lambda given: torch.full_like(given["std"], given["mean"]),
    _aten.normal.float_float: lambda given: _of_size(given["mean"])(given),
    _aten.normal_.default: _in_place(lambda given: given.get("mean", 0.0)),
    _aten.rand.default: _of_size(0.5),
    _aten.rand_like.default: _like(0.5),
    _aten.randn.default: _of_size(0.0),
    _aten.randn_like.default: _like(0.0),
    _aten.rrelu_with_noise.default: _rrelu,
    _aten.rrelu_with_noise_.default: _in_place(_rrelu),
    _aten.uniform_.default: _in_place(lambda given: (given.get("from", 0.0) + given.get("to", 1.0)) / 2),
}
