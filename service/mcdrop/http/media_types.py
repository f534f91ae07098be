"""The media types of bodies and responses, and their negotiation (RFC 9110, sections 8.3 and 12.5.1)."""

from collections.abc import Sequence

from mcdrop.errors import NotAcceptable, UnsupportedMediaType

JSON = "application/json"
NDJSON = "application/x-ndjson"
NPY = "application/x-npy"
NPZ = "application/x-npz"
# JSON followed by tensors as bytes, as the Open Inference Protocol frames them. A header of its own marks it.
OIP = "application/octet-stream"
# curl -d declares this for any body.
_URLENCODED = "application/x-www-form-urlencoded"


def body_media_type(content_type: str) -> str:
    """Return the media type of a body: JSON, NPY or NPZ. Text, or no declaration, counts as JSON.

    Args:
        content_type: The value of the Content-Type header.

    Returns:
        The media type of a body: JSON, NPY or NPZ.

    Raises:
        UnsupportedMediaType: The server does not read this type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in {NPY, NPZ}:
        return kind
    if kind in {"", JSON, _URLENCODED} or kind.startswith("text/") or kind.endswith("+json"):
        return JSON
    raise UnsupportedMediaType(f"the body's Content-Type is {content_type[:60]!r}; send {JSON}, {NPY} or {NPZ}.")


def negotiate(accept: str, offered: Sequence[str]) -> str:
    """Return the offered media type with the highest quality in an Accept header; the first of several such.

    Args:
        accept: The value of the Accept header; empty accepts everything.
        offered: The media types that the endpoint writes, the preferred one first.

    Returns:
        The offered media type with the highest quality in an Accept header.

    Raises:
        NotAcceptable: The header accepts none of them.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_media_range(part) for part in accept.split(",")]
    qualities = {media_type: _quality(media_type, ranges) for media_type in offered}
    best = max(offered, key=lambda media_type: qualities[media_type])
    if not qualities[best]:
        raise NotAcceptable(f"the Accept header is {accept[:60]!r}; this endpoint writes {', '.join(offered)}.")
    return best


def _media_range(part: str) -> tuple[str, float]:
    """Return a media range of an Accept header and its quality, 0 … 1; an unreadable quality is 0."""
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weights = [value.strip() for name, _, value in (one.partition("=") for one in parameters) if name.strip() == "q"]
    try:
        quality = float(weights[0]) if weights else 1.0
    except ValueError:
        return kind, 0.0
    return kind, quality if 0.0 <= quality <= 1.0 else 0.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the quality from the most specific range that matches; 0 if none does."""
    for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        found = [quality for kind, quality in ranges if kind == name]
        if found:
            return max(found)
    return 0.0
