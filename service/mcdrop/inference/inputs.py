"""Inputs of requests, as JSON or as arrays, made into tensors. Errors name the input, the row and the column."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop_models.bundle.manifest import InputSpec, Manifest


def to_inputs(inputs: Any, manifest: Manifest) -> dict[str, Tensor]:
    """Return the inputs of a request as tensors [B, *F] by name.

    Args:
        inputs: Rows as nested lists or as an array; an object of them by name for a model of several inputs.
        manifest: The model's manifest.

    Returns:
        The inputs of a request as tensors [B, *F] by name.

    Raises:
        InvalidInput: A name, a shape or a number does not fit. The message names the input, the row and the column.
    """
    specs = {spec.name: spec for spec in manifest.inputs}
    given = inputs if isinstance(inputs, Mapping) else dict.fromkeys(specs, inputs) if len(specs) == 1 else None
    if given is None or set(given) != set(specs):
        came = _kind(inputs) if given is None else f"an object of {', '.join(map(str, given)) or 'nothing'}"
        each = "" if len(specs) == 1 else "send an object with the rows of each input: "
        raise InvalidInput(f"inputs is {came}; {each}{'; '.join(map(_wanted, specs.values()))}.")
    rows = {name: to_rows(given[name], spec) for name, spec in specs.items()}
    if any(len(values) for values in rows.values()):
        return rows
    least = {name: free.least for name, free in (manifest.free or {}).items()}
    sizes = {
        name: [least[size] if isinstance(size, str) else size for size in spec.shape] for name, spec in specs.items()
    }
    return {name: values.new_zeros((0, *sizes[name])) for name, values in rows.items()}


def to_rows(inputs: Any, spec: InputSpec) -> Tensor:
    """Return rows as a tensor [B, *shape] of the dtype of an input.

    Args:
        inputs: Nested lists or an array; a single row may come without the outer list.
        spec: The input.

    Returns:
        Rows as a tensor [B, *shape] of the dtype of an input.

    Raises:
        InvalidInput: A row does not fit. The message names the row and the column.
    """
    if isinstance(inputs, np.ndarray):
        return array_to_rows(inputs, spec)
    if not isinstance(inputs, list):
        raise InvalidInput(f"inputs is {_kind(inputs)}; send a list of rows, {_wanted(spec)}.")
    try:
        values = np.asarray(inputs)
    except ValueError as error:
        raise _complaint(inputs, spec) from error
    mixed = spec.dtype != "bool" and _holds_bool(inputs, values.ndim)
    if mixed or values.dtype.kind not in _readable(spec):
        raise _complaint(inputs, spec)
    return array_to_rows(values, spec)


def array_to_rows(values: "np.ndarray[Any, Any]", spec: InputSpec) -> Tensor:
    """Return an array of numbers as a tensor [B, *shape] of the dtype of an input; an empty array has no rows.

    Args:
        values: The array; a single row may come without the outer dimension.
        spec: The input.

    Returns:
        An array of numbers as a tensor [B, *shape] of the dtype of an input.

    Raises:
        InvalidInput: A row does not fit. The message names the row and the column.
    """
    if values.dtype.kind not in _readable(spec):
        raise InvalidInput(f"the array holds {values.dtype}; {_wanted(spec)}.")
    if values.shape == (0,):
        values = np.zeros((0, *(0 if isinstance(size, str) else size for size in spec.shape)), spec.dtype)
    elif _fits(values.shape, spec):
        values = values[None]
    if values.ndim == 0 or not _fits(values.shape[1:], spec):
        raise InvalidInput(f"row 0 has shape {list(values.shape[1:])}; {_wanted(spec)}.")
    dtype = np.dtype(spec.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(values, dtype=dtype)
    wrong = ~np.isfinite(converted) if dtype.kind == "f" else converted != values
    if wrong.any():
        position = tuple(int(index) for index in np.argwhere(wrong)[0])
        taken = "true and false, or 1 and 0" if spec.dtype == "bool" else f"finite {spec.dtype} numbers"
        raise InvalidInput(f"{_place(position)} is {values[position]}; {spec.name} takes {taken}.")
    return torch.from_numpy(converted)


def _readable(spec: InputSpec) -> str:
    """Return the kinds of numpy dtypes that an input may be sent as."""
    return "iufb" if spec.dtype == "bool" else "iuf"


def _fits(shape: tuple[int, ...], spec: InputSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(shape, spec.shape, strict=True)
    )


def _complaint(inputs: list[Any], spec: InputSpec) -> InvalidInput:
    """Return the error for the first row or number that does not fit."""
    rows = [inputs] if _depth(inputs) == len(spec.shape) else inputs
    shape = _shape_of_first(rows, spec)
    for index, row in enumerate(rows):
        found = _misfit(row, shape, (index,), spec.dtype == "bool")
        if found:
            return InvalidInput(f"{found}; {_wanted(spec)}.")
    return InvalidInput(f"inputs cannot be read as numbers; {_wanted(spec)}.")


def _shape_of_first(rows: list[Any], spec: InputSpec) -> tuple[int, ...]:
    """Return the shape that all rows must have. A free size is that of the first row."""
    shape, part = [], rows[0] if rows else []
    for size in spec.shape:
        shape.append(size if isinstance(size, int) else len(part) if isinstance(part, list) else 0)
        part = part[0] if isinstance(part, list) and part else None
    return tuple(shape)


def _misfit(value: Any, shape: tuple[int, ...], position: tuple[int, ...], booleans: bool) -> str:
    if not shape:
        fits = _is_number(value) or (booleans and isinstance(value, bool))
        return "" if fits else f"{_place(position)} is {_kind(value)}"
    if not isinstance(value, list):
        return f"{_place(position)} is {_kind(value)}, not a list of {shape[0]}"
    if len(value) != shape[0]:
        return f"{_place(position)} has {len(value)} values, not {shape[0]}"
    parts = (_misfit(item, shape[1:], (*position, i), booleans) for i, item in enumerate(value))
    return next(filter(None, parts), "")


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64


def _holds_bool(values: list[Any], depth: int) -> bool:
    """Return whether nested lists hold true or false, which numpy would convert to 1 and 0 beside numbers."""
    if depth == 1:
        return bool in set(map(type, values))
    return any(_holds_bool(part, depth - 1) for part in values)


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _place(position: tuple[int, ...]) -> str:
    row, columns = position[0], position[1:]
    if not columns:
        return f"row {row}"
    return f"row {row}, column {columns[0] if len(columns) == 1 else list(columns)}"


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f"the text {value[:20]!r}"
    if isinstance(value, int | float):
        return str(value)[:40]
    return "a list" if isinstance(value, list) else "an object"


def _wanted(spec: InputSpec) -> str:
    sizes = ", ".join(map(str, spec.shape))
    shape = f"{spec.dtype} of shape [{sizes}]" if spec.shape else f"one {spec.dtype}"
    equal = ", all rows of one size: pad shorter ones" if any(isinstance(size, str) for size in spec.shape) else ""
    return f"{spec.name} takes {shape} for each row{equal}"
