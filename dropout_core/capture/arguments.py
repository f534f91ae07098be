"""What a caller gives a network ↔ the arguments of its forward, by name.

A tensor is the first argument, a tuple the first ones, a mapping is by name. Those of a forward(*parts) are named
parts_0, parts_1 and so on. Optional arguments that are not given keep their defaults.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from inspect import Parameter
from typing import Any

from torch import Tensor, nn

from dropout_core.errors import InvalidInput

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]


def bind(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Inputs by the names of forward's arguments, in its order. Raises InvalidInput for what does not fit.

    inputs: tensors, rows first, each of as many rows.
    """
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if not isinstance(inputs, tuple | Mapping) or not inputs:
        raise InvalidInput(
            f"the input is a {type(inputs).__name__}; give a tensor, rows first, a tuple of some, or a mapping by name."
        )
    known = _names(model, inputs)
    given = inputs if isinstance(inputs, Mapping) else dict(zip(known, inputs, strict=False))
    unknown = [name for name in given if name not in known]
    if unknown or len(given) < len(inputs):
        came = f"the input {unknown[0]!r}" if unknown else f"{len(inputs)} inputs"
        raise InvalidInput(f"{came} came; the arguments of {type(model).__name__}.forward are {', '.join(known)}.")
    missing = [name for name in _wanted(model) if name not in given]
    if missing:
        raise InvalidInput(f"{type(model).__name__}.forward takes {', '.join(missing)} as well; give a tensor for it.")
    _refuse_other_rows(given)
    return {name: given[name] for name in known if name in given}


def spread(model: nn.Module, values: Mapping[str, Any]) -> inspect.BoundArguments:
    """Values by name as the arguments of a call: those of `*parts` together in a tuple."""
    bound = _signature(model).bind_partial()
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is Parameter.VAR_POSITIONAL:
            parts = tuple(values[part] for part in _parts(name, len(values)) if part in values)
            if parts:
                bound.arguments[name] = parts
        elif name in values:
            bound.arguments[name] = values[name]
    return bound


def call(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """What the model returns for inputs by name."""
    bound = spread(model, inputs)
    return model(*bound.args, **bound.kwargs)


def _signature(model: nn.Module) -> inspect.Signature:
    try:
        function = getattr(model.forward, "__func__", None)
        return _signature_of(function or model.forward, is_method=function is not None)
    except (TypeError, ValueError):  # compiled elsewhere: only places are known
        return inspect.Signature([Parameter("inputs", Parameter.VAR_POSITIONAL)])


@lru_cache(maxsize=256)
def _signature_of(function: Callable[..., Any], is_method: bool) -> inspect.Signature:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    bound = is_method and parameters[0].kind is not Parameter.VAR_POSITIONAL
    return signature.replace(parameters=parameters[1:]) if bound else signature


def _names(model: nn.Module, inputs: Mapping[str, Any] | tuple[Any, ...]) -> list[str]:
    """The arguments that such inputs may stand for."""
    names: list[str] = []
    for name, parameter in _signature(model).parameters.items():
        if parameter.kind is Parameter.VAR_POSITIONAL:
            names += _parts(name, max(0, len(inputs) - (0 if isinstance(inputs, Mapping) else len(names))))
        elif parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) or (
            parameter.kind is Parameter.KEYWORD_ONLY and isinstance(inputs, Mapping)
        ):
            names.append(name)
    return names


def _wanted(model: nn.Module) -> list[str]:
    several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    parameters = _signature(model).parameters.items()
    return [name for name, one in parameters if one.default is Parameter.empty and one.kind not in several]


def _parts(name: str, count: int) -> Iterable[str]:
    return (f"{name}_{place}" for place in range(count))


def _refuse_other_rows(given: Mapping[str, Any]) -> None:
    rows: dict[str, int] = {}
    for name, value in given.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            came = f"{value.item()}, without rows" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InvalidInput(f"the input {name} is {came}; give one tensor, rows first.")
        rows[name] = len(value)
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in rows.items())
        raise InvalidInput(
            f"the inputs differ in their number of rows: {counts}. Every input has one row for each row."
        )
