"""Large JSON, parsed by a process of its own: parsing holds Python's lock, and an event loop would stand still.

Run as `python -m mcdrop.wire.json_worker` this is that process. It imports numpy and orjson alone.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any, NoReturn, cast

import numpy as np
import orjson
from numpy.typing import NDArray

_LENGTH_BYTES = 8


class JsonWorkerDied(Exception):
    """The process ended in the middle of a body."""


class JsonWorker:
    """Parses bodies in a process that is started when the first one comes. One at a time; for many threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def parse(self, body: bytes) -> dict[str, Any] | None:
        """A JSON object whose inputs are arrays: `inputs`, or those in it by name, or the `data` of each in a list.

        None where it is none such: what is wrong with it, whoever parses it in the usual way will see. Raises
        ParserDied.
        """
        with self._lock:
            process = self._process or self._start()
            try:
                return self._ask(process, body)
            except (OSError, EOFError) as error:
                self._end()
                raise JsonWorkerDied(f"the process that parses JSON ended: {process.returncode}.") from error

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: no folder that the server happens to run in is looked into. A session of its own: no ctrl-C comes to it.
        self._process = subprocess.Popen(  # noqa: S603 - nothing of a request is in it
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], body: bytes) -> dict[str, Any] | None:
        asked, told = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        _send(asked, body)
        asked.flush()
        head = orjson.loads(_received(told))
        if head is None:
            return None
        for holder, key in _places(head):
            dtype, shape = holder[key]
            holder[key] = np.frombuffer(_received(told), dtype).reshape(shape)
        return dict(head)


def _serve() -> NoReturn:
    """Answer bodies until nobody asks any more."""
    # What is printed by accident must not be taken for an answer.
    asked, told = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            body = _received(asked)
        except EOFError:
            sys.exit(0)
        arrays: list[NDArray[Any]] = []
        _send(told, orjson.dumps(_with_places_of(arrays, body)))
        for array in arrays:
            _send(told, array.data.cast("B") if array.size else b"")
        told.flush()


def _with_places_of(arrays: list[NDArray[Any]], body: bytes) -> dict[str, Any] | None:
    """The value of a body with [dtype, shape] where its arrays were, which are appended; None where it is irregular."""
    try:
        value = _loaded(body)
        for holder, key in _places(value):
            array = _array(holder[key])
            holder[key] = [array.dtype.str, array.shape]
            arrays.append(array)
    except (ValueError, TypeError, LookupError, RecursionError):
        arrays.clear()
        return None
    return value


def _loaded(body: bytes) -> dict[str, Any]:
    """As `mcdrop.wire.json.parse_json`; ValueError where it is no object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = json.loads(body)
        orjson.dumps(value)
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004 - caught a few lines above
    return value


def _places(value: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Where the arrays of a request are: each as what holds it, and its key there."""
    inputs = value.get("inputs")
    if isinstance(inputs, dict):
        yield from ((inputs, name) for name in inputs)
    elif isinstance(inputs, list) and inputs and all(isinstance(one, dict) for one in inputs):
        yield from ((one, "data") for one in inputs if "data" in one)
    else:
        yield value, "inputs"


def _array(values: Any) -> NDArray[Any]:
    """Nested lists of numbers, or of truths, as an array. Raises ValueError for any others, and for a mix of both."""
    array = np.asarray(values)
    if (
        array.dtype.kind not in "iufb"
        or not array.ndim
        or (array.dtype.kind != "b" and _holds_truth(values, array.ndim))
    ):
        raise ValueError("irregular")
    return np.ascontiguousarray(array)


def _holds_truth(values: list[Any], depth: int) -> bool:
    if depth == 1:
        return bool in set(map(type, values))
    return any(_holds_truth(part, depth - 1) for part in values)


def _send(stream: IO[bytes], content: bytes | memoryview) -> None:
    stream.write(len(content).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(content)


def _received(stream: IO[bytes]) -> bytes:
    length = stream.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        raise EOFError
    content = stream.read(int.from_bytes(length, "little"))
    if len(content) < int.from_bytes(length, "little"):
        raise EOFError
    return content


if __name__ == "__main__":
    _serve()
