"""What a request of /v1 sends: a body in one of several media types, and fields in the query string.

Rows come in the body. The other fields come in a JSON body beside them, or in the query string, which is where they
stand if the body is an array and has no room for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mcdrop.errors import InvalidRequest
from mcdrop.http.media_types import NPY, NPZ, OIP, body_media_type
from mcdrop.inference.call import Call
from mcdrop.wire.json import JsonParser
from mcdrop.wire.npy import Array, read_npy, read_npz
from mcdrop.wire.offload import BYTES_PER_JSON_BYTE, SMALL_BYTES
from mcdrop.wire.oip_frame import LENGTH_HEADER, Frame

# Fields that are repeated for each of their values; and fields of text, which need no quotes.
_LISTS = {"outputs", "quantiles", "ids", "exclude", "costs"}
_TEXTS = {"outputs", "ids", "exclude", "score", "selector", "reduction", "groups", "sampling", "masks"}
_ROWS = {"inputs", "labelled", "targets"}


@dataclass(frozen=True)
class Payload:
    """A body and the fields in the query string.

    Attributes:
        media_type: The media type of the body.
        body: The body, decompressed.
        fields: The fields in the query string.
        max_bytes: The most bytes that a .npz body may inflate to.
        frame: The parts of a body in the frame of the Open Inference Protocol; None for other media types.
    """

    media_type: str
    body: bytes
    fields: Mapping[str, Any]
    max_bytes: int
    frame: Frame | None = None

    @staticmethod
    async def read(call: Call, *, framed: bool = False) -> "Payload":
        """Return the payload of a call.

        Args:
            call: The call.
            framed: Whether the body may come in the frame of the Open Inference Protocol.

        Returns:
            The payload of a call.

        Raises:
            UnsupportedMediaType: The media type is not read.
            InvalidRequest: A field stands where it may not, or the frame is not consistent.
            McdropError: As `Call.body` does.
        """
        headers = call.request.headers
        length = headers.get(LENGTH_HEADER) if framed else None
        media_type = OIP if length is not None else body_media_type(headers.get("content-type", ""))
        fields = query_fields(call.request.query_params.multi_items())
        body = await call.body()
        frame = Frame.of(body, length) if media_type == OIP else None
        return Payload(media_type, body, fields, call.state.settings.max_body_bytes, frame)

    @property
    def decoding_cost(self) -> int:
        """Estimated decoding cost in equivalent JSON bytes."""
        if self.frame is not None:
            return self.frame.decoding_cost
        if self.media_type == NPZ:  # the length of a compressed body says nothing about what it inflates to
            return SMALL_BYTES + 1
        return len(self.body) // BYTES_PER_JSON_BYTE if self.media_type == NPY else len(self.body)

    def json(self, parser: JsonParser) -> Any:
        """Return the value of a JSON body, with the fields of the query string.

        Args:
            parser: Parses the body. It may return arrays for the inputs.

        Returns:
            The value of a JSON body, with the fields of the query string.

        Raises:
            MalformedJson: The body is not JSON.
            InvalidRequest: A field is both in the body and in the query string.
        """
        return merge_fields(parser.parse(self.body), self.fields)

    def arrays(self) -> Array | dict[str, Array]:
        """Return the array of a .npy body, or the arrays of a .npz body by name.

        Returns:
            The array of a .npy body, or the arrays of a .npz body by name.

        Raises:
            InvalidRequest: The body is not such a file.
            BodyTooLarge: It inflates to more than `max_bytes`.
        """
        return read_npy(self.body) if self.media_type == NPY else read_npz(self.body, self.max_bytes)


def query_fields(query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the fields of a query string. Values are JSON; texts need no quotes.

    A list is repeated for each value. An empty list is the name alone.

    Args:
        query: Names and values, in order.

    Returns:
        The fields of a query string.

    Raises:
        InvalidRequest: Rows stand in the query string, or a field stands there twice.
    """
    fields: dict[str, Any] = {}
    for name, text in query:
        if name in _ROWS:
            raise InvalidRequest(f"{name} is in the query string; send rows as the body.")
        if name in fields and name not in _LISTS:
            raise InvalidRequest(f"{name} is in the query string twice; send it once.")
        if name in _LISTS:
            fields.setdefault(name, []).extend([field_value(name, text)] if text else [])
        else:
            fields[name] = field_value(name, text)
    return fields


def field_value(name: str, text: str) -> Any:
    """Return the value that a text means. A text that is not JSON stays a text, which its field then refuses by name.

    Args:
        name: The name of the field.
        text: The text.

    Returns:
        The value that a text means.
    """
    try:
        return text if name in _TEXTS else orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def merge_fields(body: Any, fields: Mapping[str, Any]) -> Any:
    """Return a JSON body with further fields.

    Args:
        body: The value of the body; one that is not an object is returned as it is, for the schema to refuse.
        fields: Fields from the query string, or from parameters.

    Returns:
        A JSON body with further fields.

    Raises:
        InvalidRequest: A field is in both.
    """
    if not isinstance(body, dict):
        return body
    both = body.keys() & fields.keys()
    if both:
        raise InvalidRequest(f"{min(both)} is both in the body and in the query string; send it once.")
    return {**body, **fields}
