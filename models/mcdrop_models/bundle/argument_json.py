"""An operator's arguments ↔ JSON.

Plain JSON values stand for themselves, lists for tuples; what JSON has not is an object with one tag: {"ref": name},
{"size": expression of "rows" and of free dimensions}, {"device": true}, {"dtype": name}, {"memory_format": name},
{"layout": "strided"} and {"float": "inf" | "-inf" | "nan"}.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dropout_core.graph.program import Device, Ref
from dropout_core.graph.sizes import Expression, Size
from mcdrop_models.errors import InvalidBundle

_MAX_DEPTH = 32
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    )
}  # fmt: skip
_FORMATS = {
    str(value).removeprefix("torch."): value
    for value in (torch.contiguous_format, torch.preserve_format, torch.channels_last)
}
_LAYOUTS = {"strided": torch.strided}
_FLOATS = {name: float(name) for name in ("inf", "-inf", "nan")}
_BINARY = ("add", "mul", "floordiv", "mod")


def encode_argument(arg: Any) -> Any:
    """An argument as JSON. Raises InvalidBundle for what has no form."""
    if isinstance(arg, tuple):
        return [encode_argument(item) for item in arg]
    if isinstance(arg, float) and not math.isfinite(arg):
        return {"float": str(arg)}
    if arg is None or isinstance(arg, bool | int | float | str):
        return arg
    for kind, tag, value in _TAGGED:
        if isinstance(arg, kind):
            return {tag: value(arg)}
    raise InvalidBundle(f"an operator has the argument {arg!r}, which program.json cannot hold.")


def decode_argument(item: Any, depth: int = 0) -> Any:
    """The argument of some JSON. Raises InvalidBundle for any other tag."""
    if depth > _MAX_DEPTH:
        raise InvalidBundle(f"program.json nests arguments deeper than {_MAX_DEPTH}.")
    if isinstance(item, list):
        return tuple(decode_argument(part, depth + 1) for part in item)
    if not isinstance(item, dict):
        return item
    ((tag, value),) = item.items()
    if tag not in _DECODERS:
        raise InvalidBundle(f"program.json has an argument tagged {tag!r}; the tags are {', '.join(_DECODERS)}.")
    return _DECODERS[tag](value)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name. Raises InvalidBundle for one that bundles do not hold."""
    return _name_in(_DTYPES, dtype)


def dtype_of(name: Any) -> torch.dtype:
    """The dtype of a name."""
    return _DTYPES[text(name)]


def text(value: Any) -> str:
    """A JSON value that must be a text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r}, where a name is wanted")
    return value


def integer(value: Any) -> int:
    """A JSON value that must be a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r}, where a whole number is wanted")
    return value


def number(value: Any) -> float:
    """A JSON value that must be a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r}, where a number is wanted")
    return float(value)


def _name_in(table: Mapping[str, Any], value: Any) -> str:
    name = str(value).removeprefix("torch.")
    if name not in table:
        raise InvalidBundle(f"the network uses {value}; bundles hold {', '.join(table)}.")
    return name


def _expression(tree: Any, depth: int = 0) -> Expression:
    if isinstance(tree, str):
        return tree
    if not isinstance(tree, list):
        return integer(tree)
    operator, left, right = tree
    if operator not in _BINARY or depth > _MAX_DEPTH:
        raise InvalidBundle(f"program.json has a size with {operator!r}; sizes use {', '.join(_BINARY)}.")
    return operator, _expression(left, depth + 1), _expression(right, depth + 1)


_TAGGED: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (Ref, "ref", lambda ref: ref.name),
    (Size, "size", lambda size: size.expression),
    (Device, "device", lambda _: True),
    (torch.dtype, "dtype", dtype_name),
    (torch.memory_format, "memory_format", lambda value: _name_in(_FORMATS, value)),
    (torch.layout, "layout", lambda value: _name_in(_LAYOUTS, value)),
)
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "ref": lambda value: Ref(text(value)),
    "size": lambda value: Size(_expression(value)),
    "device": lambda _: Device(),
    "dtype": dtype_of,
    "memory_format": lambda value: _FORMATS[text(value)],
    "layout": lambda value: _LAYOUTS[text(value)],
    "float": lambda value: _FLOATS[text(value)],
}
