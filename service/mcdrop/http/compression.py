"""Decompression of request bodies, bounded by the largest body the server accepts."""

import zlib

from mcdrop.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

# zlib's window sizes for the two formats (RFC 1952, RFC 1950).
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a body without its Content-Encoding.

    Args:
        body: The bytes that were sent.
        encoding: The value of the Content-Encoding header.
        max_bytes: The largest decompressed body to accept.

    Returns:
        A body without its Content-Encoding.

    Raises:
        UnsupportedMediaType: The encoding is neither gzip nor deflate.
        BodyTooLarge: The body inflates to more than `max_bytes`. Decompression stops there.
        InvalidRequest: The body is damaged, incomplete or followed by other bytes.
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
        raise InvalidRequest(f"the body is not valid {name}: {error}.") from error
    if len(whole) > max_bytes:
        raise BodyTooLarge(
            f"the body inflates to more than the {max_bytes} bytes that are accepted. Send fewer rows at a time."
        )
    if not stream.eof:
        raise InvalidRequest(f"the {name} stream of the body is incomplete. Send all of it.")
    if stream.unused_data:
        raise InvalidRequest(
            f"{len(stream.unused_data)} bytes follow the {name} stream of the body. Send a single stream."
        )
    return whole
