"""The JSON form of an operator's arguments.

Plain JSON values represent themselves, and lists represent tuples. A value that JSON lacks is an object with one tag:
{"ref": name}, {"size": expression of "rows" and free dimensions}, {"device": true}, {"dtype": name},
{"memory_format": name}, {"layout": "strided"} or {"float": "inf" | "-inf" | "nan"}.
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
    """Return the JSON form of an argument.

    Args:
        arg: The argument.

    Returns:
        Plain JSON values, lists and tagged objects.

    Raises:
        InvalidBundle: The argument has no such form.
    """
    if isinstance(arg, tuple):
        return [encode_argument(item) for item in arg]
    if isinstance(arg, float) and not math.isfinite(arg):
        return {"float": str(arg)}
    if arg is None or isinstance(arg, bool | int | float | str):
        return arg
    for kind, tag, value in _TAGGED:
        if isinstance(arg, kind):
            return {tag: value(arg)}
    raise InvalidBundle(f"an operator has the argument {arg!r}, which program.json cannot represent.")


def decode_argument(item: Any, depth: int = 0) -> Any:
    """Return the argument that a JSON value represents.

    Args:
        item: The JSON value.
        depth: How deep it is nested.

    Returns:
        The argument.

    Raises:
        InvalidBundle: It is nested too deep, or has an unknown tag.
    """
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
    """Return the name of a dtype.

    Args:
        dtype: The dtype.

    Returns:
        Its name, such as "float32".

    Raises:
        InvalidBundle: Bundles may not use this dtype.
    """
    return _name_in(_DTYPES, dtype)


def dtype_named(name: Any) -> torch.dtype:
    """Return the dtype of a name.

    Args:
        name: Its name, such as "float32".

    Returns:
        The dtype.

    Raises:
        KeyError: Bundles may not use it.
    """
    return _DTYPES[expect_text(name)]


def expect_text(value: Any) -> str:
    """Return a JSON value that must be a text.

    Args:
        value: The JSON value.

    Returns:
        The same value.

    Raises:
        TypeError: It is not a text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r}, which must be a text")
    return value


def expect_integer(value: Any) -> int:
    """Return a JSON value that must be an integer.

    Args:
        value: The JSON value.

    Returns:
        The same value.

    Raises:
        TypeError: It is not an integer.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r}, which must be an integer")
    return value


def expect_number(value: Any) -> float:
    """Return a JSON value that must be a number.

    Args:
        value: The JSON value.

    Returns:
        It as a float.

    Raises:
        TypeError: It is not a number.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r}, which must be a number")
    return float(value)


def _name_in(table: Mapping[str, Any], value: Any) -> str:
    name = str(value).removeprefix("torch.")
    if name not in table:
        raise InvalidBundle(f"the network uses {value}, but bundles may only use {', '.join(table)}.")
    return name


def _expression(tree: Any, depth: int = 0) -> Expression:
    if isinstance(tree, str):
        return tree
    if not isinstance(tree, list):
        return expect_integer(tree)
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
    "ref": lambda value: Ref(expect_text(value)),
    "size": lambda value: Size(_expression(value)),
    "device": lambda _: Device(),
    "dtype": dtype_named,
    "memory_format": lambda value: _FORMATS[expect_text(value)],
    "layout": lambda value: _LAYOUTS[expect_text(value)],
    "float": lambda value: _FLOATS[expect_text(value)],
}
