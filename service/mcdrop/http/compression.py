"""Compressed bodies, inflated no further than a body may be long."""

import zlib

from mcdrop.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

# What zlib calls the two framings (RFC 1952, RFC 1950).
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """A body without its Content-Encoding.

    Raises UnsupportedMediaType for others than gzip and deflate, BodyTooLarge before more than max_bytes are made, or
    InvalidRequest for what is not compressed so.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in _WINDOWS:
        raise UnsupportedMediaType(
            f"the body's Content-Encoding is {encoding[:40]!r}; send it plain, or as {' or '.join(_WINDOWS)}."
        )
    stream = zlib.decompressobj(_WINDOWS[name])
    try:
        whole = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is no {name}: {error}.") from error
    if len(whole) > max_bytes:
        raise BodyTooLarge(
            f"the body inflates to more than the {max_bytes} bytes that are accepted. Send fewer rows at a time."
        )
    if not stream.eof:
        raise InvalidRequest(f"the {name} of the body ends too early; send all of it.")
    if stream.unused_data:
        raise InvalidRequest(f"{len(stream.unused_data)} bytes follow the {name} of the body; send one stream alone.")
    return whole
