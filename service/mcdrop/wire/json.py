"""Bytes ↔ JSON ↔ tensors. Limits come before parsing; errors name the input, the row and the column."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from mcdrop.errors import MalformedJson

# So many are written in a millisecond.
_PIECE_NUMBERS = 2**14


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


def dump_json(value: Any) -> bytes:
    """JSON of an answer, numpy arrays included.

    Made piece by piece: in between other threads get their turn, above all the event loop.
    """
    return b"".join(_pieces(value))


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        items = [[orjson.dumps(key), b":", *_pieces(part)] for key, part in value.items()]
        yield from _listed(b"{", items, b"}")
    elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        yield from _listed(b"[", map(_pieces, value), b"]")
    elif isinstance(value, np.ndarray) and value.ndim and value.size > _PIECE_NUMBERS:
        count = max(1, len(value) * _PIECE_NUMBERS // value.size)
        parts = [value[start : start + count] for start in range(0, len(value), count)]
        rows = (_pieces(part[0]) if count == 1 else iter([_dumped(part)[1:-1]]) for part in parts)
        yield from _listed(b"[", rows, b"]")
    else:
        yield _dumped(value)


def _listed(opening: bytes, items: Iterable[Iterable[bytes]], closing: bytes) -> Iterator[bytes]:
    between = opening
    for item in items:
        yield between
        yield from item
        between = b","
    yield closing if between == b"," else opening + closing


def _dumped(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _whole(digits: str) -> int | float:
    """A whole number as orjson reads it: one that no 64 bits hold is a float."""
    return int(digits) if len(digits) < 20 else float(digits)


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth
