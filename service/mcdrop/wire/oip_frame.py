"""Bodies of the Open Inference Protocol: JSON, followed by tensors as bytes.

Lengths come from the client, so each is compared with the bytes that arrived before it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcdrop.errors import InvalidRequest
from mcdrop.wire.json import dump_json
from mcdrop.wire.npy import Array
from mcdrop.wire.offload import BYTES_PER_JSON_BYTE

LENGTH_HEADER = "Inference-Header-Content-Length"
_MOST_DIGITS = 19


@dataclass(frozen=True)
class Frame:
    """A body in its two parts.

    Attributes:
        json: The JSON part.
        tensors: The bytes after it.
        raw: Whether the body has no JSON and is a single tensor.
    """

    json: bytes
    tensors: memoryview
    raw: bool = False

    @staticmethod
    def of(body: bytes, length: str | None) -> "Frame":
        """Return the frame of a body.

        Args:
            body: The bytes of the body.
            length: The value of the header with the length of the JSON; None if the body is JSON only.

        Returns:
            The frame of a body.

        Raises:
            InvalidRequest: The length is not a number, or exceeds the body.
        """
        if length is None:
            return Frame(body, memoryview(b""))
        if not (length.isascii() and length.isdecimal() and len(length) <= _MOST_DIGITS):
            raise InvalidRequest(f"{LENGTH_HEADER} is {length[:20]!r}; send the bytes of JSON as a whole number.")
        end = int(length)
        if end > len(body):
            raise InvalidRequest(f"{LENGTH_HEADER} is {end}, and the body has {len(body)} bytes; send all of it.")
        return Frame(body[:end], memoryview(body)[end:], raw=end == 0)

    @property
    def decoding_cost(self) -> int:
        """Estimated decoding cost in equivalent JSON bytes."""
        return len(self.json) + len(self.tensors) // BYTES_PER_JSON_BYTE

    def split(self, sizes: Sequence[int | None]) -> list[memoryview | None]:
        """Return the bytes of each tensor.

        Args:
            sizes: The length of each tensor in bytes; None for a tensor in the JSON.

        Returns:
            For each tensor its bytes, or None.

        Raises:
            InvalidRequest: The lengths do not add up to the bytes after the JSON.
        """
        given = [size for size in sizes if size is not None]
        if sum(given) != len(self.tensors):
            raise InvalidRequest(
                f"{len(self.tensors)} bytes follow the JSON, but the binary_data_size of the inputs add up to "
                f"{sum(given)}. Make them equal, and send the length of the JSON as {LENGTH_HEADER}."
            )
        parts: list[memoryview | None] = []
        start = 0
        for size in sizes:
            parts.append(None if size is None else self.tensors[start : start + size])
            start += size or 0
        return parts


@dataclass(frozen=True)
class EncodedFrame:
    """A response as bytes.

    Attributes:
        content: The whole body.
        json_length: The length of its JSON if tensors follow; None otherwise.
    """

    content: bytes
    json_length: int | None


def encode_frame(document: dict[str, Any], tensors: Sequence[Array]) -> EncodedFrame:
    """Return a document, followed by its tensors, as bytes.

    Args:
        document: The JSON part.
        tensors: Contiguous arrays, in the order of the document.

    Returns:
        A document, followed by its tensors, as bytes.
    """
    json = dump_json(document)
    if not tensors:
        return EncodedFrame(json, None)
    parts: list[Any] = [json, *tensors]
    return EncodedFrame(b"".join(parts), len(json))
