"""Bodies of the Open Inference Protocol: JSON, and behind it the bytes of tensors in their order.

Every length is a claim of somebody else, and is compared with what came before it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from mcdrop.errors import InvalidRequest
from mcdrop.wire.json import dump_json

LENGTH_HEADER = "Inference-Header-Content-Length"
_MOST_DIGITS = 19
# A byte of a tensor is read so much faster than one of JSON.
FASTER = 100


@dataclass(frozen=True)
class Frame:
    """A body in two parts. raw: it has no JSON at all, and is one tensor."""

    json: bytes
    tensors: memoryview
    raw: bool = False

    @staticmethod
    def of(body: bytes, length: str | None) -> "Frame":
        """A body whose first `length` bytes are JSON; None: all of them. Raises InvalidRequest."""
        if length is None:
            return Frame(body, memoryview(b""))
        if not (length.isascii() and length.isdecimal() and len(length) <= _MOST_DIGITS):
            raise InvalidRequest(f"{LENGTH_HEADER} is {length[:20]!r}; send the bytes of JSON as a whole number.")
        end = int(length)
        if end > len(body):
            raise InvalidRequest(f"{LENGTH_HEADER} is {end}, and the body has {len(body)} bytes; send all of it.")
        return Frame(body[:end], memoryview(body)[end:], raw=end == 0)

    @property
    def weight(self) -> int:
        """The bytes of JSON that reading it takes as long as."""
        return len(self.json) + len(self.tensors) // FASTER

    def cut(self, sizes: Sequence[int | None]) -> list[memoryview | None]:
        """The bytes of each tensor; None for those in the JSON. Raises InvalidRequest where they are not all there."""
        given = [size for size in sizes if size is not None]
        if sum(given) != len(self.tensors):
            raise InvalidRequest(
                f"{len(self.tensors)} bytes follow the JSON, and the binary_data_size of the inputs add up to "
                f"{sum(given)}; send as many, and {LENGTH_HEADER} with the bytes of the JSON."
            )
        parts: list[memoryview | None] = []
        start = 0
        for size in sizes:
            parts.append(None if size is None else self.tensors[start : start + size])
            start += size or 0
        return parts


@dataclass(frozen=True)
class EncodedFrame:
    """An answer as bytes. json_length: those of its JSON, where tensors follow it."""

    content: bytes
    json_length: int | None


def encode_frame(document: dict[str, Any], tensors: Sequence[NDArray[Any]]) -> EncodedFrame:
    """A document, and the tensors that it says follow it, each in one piece of memory."""
    json = dump_json(document)
    if not tensors:
        return EncodedFrame(json, None)
    parts: list[Any] = [json, *tensors]
    return EncodedFrame(b"".join(parts), len(json))
