"""A child process that parses large JSON bodies into arrays.

Parsing holds the interpreter lock, so in any thread of the server it would stop the event loop. Of a body of 25 MB the
loop waits 4 ms with this process, 13 ms with `anyio.to_process` (which pickles on the loop) and 130 ms with a thread;
the server spends 33, 90 and 180 ms of CPU time on it.

`python -m mcdrop.wire.json_worker` runs the child. It imports numpy and orjson only.
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
    """The child process ended while it parsed a body."""


class JsonWorker:
    """Parses bodies in a child process, which starts with the first one. One at a time; safe for many threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def parse(self, body: bytes) -> dict[str, Any] | None:
        """Return a JSON object with arrays for its inputs.

        The arrays are `inputs` itself, its values if it is an object, or the `data` of each item if it is a list of
        objects.

        Args:
            body: The bytes of a body.

        Returns:
            The object, or None if it is malformed or its inputs are not regular arrays of numbers. The ordinary parser
            then finds out what is wrong.

        Raises:
            JsonWorkerDied: The child process ended. The next body starts another one.
        """
        with self._lock:
            process = self._process or self._start()
            try:
                return self._exchange(process, body)
            except (OSError, EOFError) as error:
                self._stop()
                raise JsonWorkerDied(f"the process that parses JSON ended: {process.returncode}.") from error

    def close(self) -> None:
        """Stop the child process if it runs."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P keeps the current folder out of the import path. A session of its own keeps ctrl-C away from it.
        self._process = subprocess.Popen(  # noqa: S603 - nothing of a request is in it
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], body: bytes) -> dict[str, Any] | None:
        """Send a body to the child and read its reply."""
        requests, replies = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        _send(requests, body)
        requests.flush()
        head = orjson.loads(_receive(replies))
        if head is None:
            return None
        for holder, key in _places(head):
            dtype, shape = holder[key]
            holder[key] = np.frombuffer(_receive(replies), dtype).reshape(shape)
        return dict(head)


def _serve() -> NoReturn:
    """Parse bodies from stdin until it closes."""
    # The replies get a descriptor of their own: anything printed by accident must not be taken for one.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            body = _receive(requests)
        except EOFError:
            sys.exit(0)
        head, arrays = _parse(body)
        _send(replies, orjson.dumps(head))
        for array in arrays:
            _send(replies, array.data.cast("B") if array.size else b"")
        replies.flush()


def _parse(body: bytes) -> tuple[dict[str, Any] | None, list[NDArray[Any]]]:
    """Return an object with [dtype, shape] in place of each array, and the arrays; None if it is irregular."""
    arrays: list[NDArray[Any]] = []
    try:
        value = _load(body)
        for holder, key in _places(value):
            array = _array(holder[key])
            holder[key] = [array.dtype.str, array.shape]
            arrays.append(array)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None, []
    return value, arrays


def _load(body: bytes) -> dict[str, Any]:
    """Return a JSON object as `mcdrop.wire.json.parse_json` reads it. Raises ValueError for any other value."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = json.loads(body)
        orjson.dumps(value)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - caught by the caller
    return value


def _places(value: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield the places of the arrays in a request: the container, and the key in it."""
    inputs = value.get("inputs")
    if isinstance(inputs, dict):
        yield from ((inputs, name) for name in inputs)
    elif isinstance(inputs, list) and inputs and all(isinstance(one, dict) for one in inputs):
        yield from ((one, "data") for one in inputs if "data" in one)
    else:
        yield value, "inputs"


def _array(values: Any) -> NDArray[Any]:
    """Return nested lists of numbers, or of booleans, as an array. Raises ValueError for others and for a mix."""
    array = np.asarray(values)
    if (
        array.dtype.kind not in "iufb"
        or not array.ndim
        or (array.dtype.kind != "b" and _holds_bool(values, array.ndim))
    ):
        raise ValueError("irregular")
    return np.ascontiguousarray(array)


def _holds_bool(values: list[Any], depth: int) -> bool:
    if depth == 1:
        return bool in set(map(type, values))
    return any(_holds_bool(part, depth - 1) for part in values)


def _send(stream: IO[bytes], content: bytes | memoryview) -> None:
    stream.write(len(content).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(content)


def _receive(stream: IO[bytes]) -> bytes:
    length = stream.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        raise EOFError
    content = stream.read(int.from_bytes(length, "little"))
    if len(content) < int.from_bytes(length, "little"):
        raise EOFError
    return content


if __name__ == "__main__":
    _serve()
