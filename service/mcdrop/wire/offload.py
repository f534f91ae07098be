"""Which encoding and decoding runs on the event loop, and which in a worker thread."""

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

# Decoding this many bytes of JSON takes about as long as handing the work to a thread.
SMALL_BYTES = 64 * 2**10
# Numbers as bytes are read this many times faster than the same length of JSON.
BYTES_PER_JSON_BYTE = 100
# Writing a number costs as much as reading this many bytes.
_BYTES_PER_NUMBER = 32
_T = TypeVar("_T")


def json_cost(numbers: int) -> int:
    """Return the cost of writing some numbers as JSON, in equivalent JSON bytes read.

    Args:
        numbers: How many numbers.

    Returns:
        The cost of writing some numbers as JSON, in equivalent JSON bytes read.
    """
    return numbers * _BYTES_PER_NUMBER


async def offload(work: Callable[[], _T], size: int) -> _T:
    """Return the result of `work`, which runs in a worker thread if it is large.

    Args:
        work: Decodes a body, or encodes a response.
        size: Its estimated cost in equivalent JSON bytes.

    Returns:
        The result of `work`, which runs in a worker thread if it is large.
    """
    return work() if size <= SMALL_BYTES else await anyio.to_thread.run_sync(work)
