"""Parsing and writing of JSON. Arrays are written a piece at a time, so that the event loop is not held up."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from mcdrop.errors import MalformedJson
from mcdrop.wire.json_worker import JsonWorker

# Parsing this many bytes holds the interpreter lock, and with it the event loop, for some milliseconds.
_LARGE_BYTES = 2 * 2**20
# Writing this many numbers takes a millisecond.
_PIECE_NUMBERS = 2**14


class JsonParser:
    """Parses JSON bodies: small ones in place, large ones in a child process. Safe for many threads."""

    def __init__(self) -> None:
        self.worker = JsonWorker()

    def parse(self, body: bytes) -> Any:
        """Return the value of a JSON body; a large object has arrays for its inputs.

        Args:
            body: The bytes of the body.

        Returns:
            The value of a JSON body.

        Raises:
            MalformedJson: The body is not JSON.
            JsonWorkerDied: The child process ended in the middle of a large body.
        """
        value = self.worker.parse(body) if len(body) > _LARGE_BYTES else None
        return parse_json(body) if value is None else value

    def close(self) -> None:
        """Stop the child process if it runs."""
        self.worker.close()


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON body. NaN and infinity, which many clients write, are read as such.

    Args:
        body: The bytes of the body.

    Returns:
        The value of a JSON body.

    Raises:
        MalformedJson: The body is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            value = json.loads(body, parse_int=_whole)
            orjson.dumps(value)  # Python reads lone surrogates, which no response could repeat
        except (ValueError, TypeError, RecursionError):
            raise MalformedJson(f"the body is not JSON: {error}.") from error
        return value


def dump_json(value: Any) -> bytes:
    """Return a value as JSON, numpy arrays included.

    Arrays are written in pieces: between two of them other threads, above all the event loop, get their turn.

    Args:
        value: Mappings, lists, numbers, texts and arrays.

    Returns:
        A value as JSON, numpy arrays included.
    """
    return b"".join(_pieces(value))


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        items = [[orjson.dumps(key), b":", *_pieces(part)] for key, part in value.items()]
        yield from _enclosed(b"{", items, b"}")
    elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        yield from _enclosed(b"[", map(_pieces, value), b"]")
    elif isinstance(value, np.ndarray) and value.ndim and value.size > _PIECE_NUMBERS:
        count = max(1, len(value) * _PIECE_NUMBERS // value.size)
        parts = [value[start : start + count] for start in range(0, len(value), count)]
        rows = (_pieces(part[0]) if count == 1 else iter([_dump(part)[1:-1]]) for part in parts)
        yield from _enclosed(b"[", rows, b"]")
    else:
        yield _dump(value)


def _enclosed(opening: bytes, items: Iterable[Iterable[bytes]], closing: bytes) -> Iterator[bytes]:
    """Yield items with commas between them and brackets around them."""
    between = opening
    for item in items:
        yield between
        yield from item
        between = b","
    yield closing if between == b"," else opening + closing


def _dump(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _whole(digits: str) -> int | float:
    """Return a whole number as orjson reads it: beyond 64 bits it is a float."""
    return int(digits) if len(digits) < 20 else float(digits)
