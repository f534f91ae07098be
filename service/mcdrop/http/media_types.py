"""The forms of bodies and answers: which one was sent, and which one is wanted (RFC 9110, sections 8.3 and 12.5.1)."""

from collections.abc import Sequence

from mcdrop.errors import NotAcceptable, UnsupportedMediaType

JSON = "application/json"
NDJSON = "application/x-ndjson"
NPY = "application/x-npy"
NPZ = "application/x-npz"
# JSON and bytes behind it, in the frame of the Open Inference Protocol: known by its header.
OIP = "application/octet-stream"
# What curl -d says of any body.
_URLENCODED = "application/x-www-form-urlencoded"


def body_media_type(content_type: str) -> str:
    """JSON, NPY or NPZ. A body that says nothing of itself, or that it is text, is taken for JSON.

    Raises UnsupportedMediaType.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in {NPY, NPZ}:
        return kind
    if kind in {"", JSON, _URLENCODED} or kind.startswith("text/") or kind.endswith("+json"):
        return JSON
    raise UnsupportedMediaType(f"the body's Content-Type is {content_type[:60]!r}; send {JSON}, {NPY} or {NPZ}.")


def negotiate(accept: str, offered: Sequence[str]) -> str:
    """The one of the forms offered that an Accept header likes best; the first of several it likes as well.

    Raises NotAcceptable.
    """
    if not accept.strip():
        return offered[0]
    ranges = [_range(part) for part in accept.split(",")]
    liking = {form: _quality(form, ranges) for form in offered}
    best = max(offered, key=lambda form: liking[form])
    if not liking[best]:
        raise NotAcceptable(f"the Accept header is {accept[:60]!r}; there are {', '.join(offered)}.")
    return best


def _range(part: str) -> tuple[str, float]:
    """A media range of an Accept header, and how well it is liked: 0 … 1, and 0 where that cannot be read."""
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weights = [value.strip() for name, _, value in (one.partition("=") for one in parameters) if name.strip() == "q"]
    try:
        quality = float(weights[0]) if weights else 1.0
    except ValueError:
        return kind, 0.0
    return kind, quality if 0.0 <= quality <= 1.0 else 0.0


def _quality(form: str, ranges: Sequence[tuple[str, float]]) -> float:
    """How well a form is liked: as the range says that names it most exactly; 0 where none does."""
    for name in (form, f"{form.partition('/')[0]}/*", "*/*"):
        found = [quality for kind, quality in ranges if kind == name]
        if found:
            return max(found)
    return 0.0
