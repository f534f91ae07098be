"""Bytes ↔ JSON ↔ tensors. Limits come before parsing; errors name the row and the column."""

import json
import math
from typing import Any

import numpy as np
import orjson
import torch
from fastapi import Request
from starlette.requests import ClientDisconnect
from torch import Tensor

from dropout_core.errors import InvalidInput
from models.manifest import InputSpec
from service.errors import BodyTooLarge, MalformedJson


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge by its declared length, or as soon as more arrives."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes; {max_bytes} are accepted. Send fewer rows at a time.")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise BodyTooLarge(
                    f"the body has more than the {max_bytes} bytes that are accepted. Send fewer rows at a time."
                )
    except ClientDisconnect as error:
        raise MalformedJson("the caller left before the whole body came.") from error
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """The value of a JSON body. NaN and infinity, which many clients write, pass: `to_rows` names them."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            value = json.loads(body, parse_int=_whole)
            orjson.dumps(value)  # half a character, which Python reads, can be sent back by nobody
        except (ValueError, TypeError, RecursionError):
            raise MalformedJson(f"the body is not JSON: {error}.") from error
        return value


def to_json(value: Any) -> bytes:
    """JSON of an answer, numpy arrays included."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def to_rows(inputs: Any, spec: InputSpec) -> Tensor:
    """Nested lists as rows [B, *shape] of the dtype a model takes; a single row may stand without the outer list.

    Raises InvalidInput naming the row and the column of what does not fit.
    """
    if not isinstance(inputs, list):
        raise InvalidInput(f"inputs is {_kind(inputs)}; send a list of rows, {_wanted(spec)}.")
    try:
        values = np.asarray(inputs)
    except ValueError as error:
        raise _complaint(inputs, spec) from error
    if values.size == 0 and values.ndim == 1:
        return torch.zeros((0, *spec.shape), dtype=getattr(torch, spec.dtype))
    if values.dtype.kind not in "iuf" or _holds_bool(inputs, values.ndim):
        raise _complaint(inputs, spec)
    return array_to_rows(values, spec)


def array_to_rows(values: "np.ndarray[Any, Any]", spec: InputSpec) -> Tensor:
    """An array of numbers as rows [B, *shape] of the dtype a model takes. Raises as `to_rows`."""
    if values.dtype.kind not in "iuf":
        raise InvalidInput(f"the array holds {values.dtype}; {_wanted(spec)}.")
    if values.shape == spec.shape:
        values = values[None]
    if values.shape[1:] != spec.shape or values.ndim == 0:
        raise InvalidInput(f"row 0 has shape {list(values.shape[1:])}; {_wanted(spec)}.")
    dtype = np.dtype(spec.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(values, dtype=dtype)
    wrong = ~np.isfinite(converted) if dtype.kind == "f" else converted != values
    if wrong.any():
        position = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise InvalidInput(f"{_place(position)} is {values[position]}; {spec.name} takes finite {spec.dtype} numbers.")
    return torch.from_numpy(converted)


def _complaint(inputs: list[Any], spec: InputSpec) -> InvalidInput:
    """The first row or number that does not fit."""
    rows = [inputs] if _depth(inputs) == len(spec.shape) else inputs
    for index, row in enumerate(rows):
        found = _misfit(row, spec.shape, (index,))
        if found:
            return InvalidInput(f"{found}; {_wanted(spec)}.")
    return InvalidInput(f"inputs cannot be read as numbers; {_wanted(spec)}.")


def _misfit(value: Any, shape: tuple[int, ...], position: tuple[int, ...]) -> str:
    if not shape:
        return "" if _is_number(value) else f"{_place(position)} is {_kind(value)}"
    if not isinstance(value, list):
        return f"{_place(position)} is {_kind(value)}, not a list of {shape[0]}"
    if len(value) != shape[0]:
        return f"{_place(position)} has {len(value)} values, not {shape[0]}"
    return next((found for i, item in enumerate(value) if (found := _misfit(item, shape[1:], (*position, i)))), "")


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64


def _holds_bool(values: list[Any], depth: int) -> bool:
    """Whether lists of a depth hold true or false, which numpy takes for 1 and 0 beside numbers."""
    if depth == 1:
        return bool in set(map(type, values))
    return any(_holds_bool(part, depth - 1) for part in values)


def _whole(digits: str) -> int | float:
    """A whole number as orjson reads it: one that no 64 bits hold is a float."""
    return int(digits) if len(digits) < 20 else float(digits)


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
    shape = f"{spec.dtype} of shape {list(spec.shape)}" if spec.shape else f"one {spec.dtype}"
    return f"{spec.name} takes {shape} for each row"
