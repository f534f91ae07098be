"""What the OpenAPI document says of refusals, by the codes of `mcdrop.http.problems`."""

from collections.abc import Sequence
from typing import Any

from mcdrop.http.problems import CODES, OIP_STATUS

Responses = dict[int | str, dict[str, Any]]
_HEADERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "queue-full",
        "Retry-After",
        {
            "description": "Seconds until what waits will have been computed.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        },
    ),
    (
        "unauthorized",
        "WWW-Authenticate",
        {"description": "How a key is sent.", "required": True, "schema": {"const": "Bearer"}},
    ),
)
# Reading a body, and computing.
OF_BODIES = ("malformed-json", "request-timeout", "body-too-large", "unsupported-media-type", "invalid-request")
OF_MODELS = ("unknown-model", "invalid-bundle", "unloaded", "internal")
OF_ANSWERS = (
    *OF_BODIES,
    *OF_MODELS,
    "invalid-input",
    "unknown-measure",
    "queue-full",
    "non-finite-output",
    "draining",
    "compute-died",
    "deadline-exceeded",
)
_DETAILS = {
    "malformed-json": "the body is not JSON: unexpected end of data: line 1 column 12 (char 11).",
    "unauthorized": "send the server's key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
    "forbidden": "this key may only predict; it takes one that 'mcdrop key new NAME --scope admin' makes.",
    "unknown-model": "there is no model 'digit'; there are digits, heights.",
    "not-acceptable": "the Accept header is 'text/csv'; there are application/json, application/x-npz.",
    "request-timeout": "the body did not come in time; send it faster, or less of it.",
    "body-too-large": "the body has 20000000 bytes; 16777216 are accepted. Send fewer rows at a time.",
    "unsupported-media-type": "the body's Content-Encoding is 'br'; send it plain, or as gzip or deflate.",
    "invalid-request": "passes: Input should be a valid integer. The fields are inputs, passes, seed.",
    "invalid-input": "row 0 has 7 values, not 8; x takes float32 of shape [8, 8] for each row.",
    "unknown-measure": "digits has no measure 'entrpy'; it has mean, variance, predictive_entropy.",
    "queue-full": "1024 requests of 31.5 s wait; try again in 32 s.",
    "internal": "The failure was logged; try again, or tell the operator.",
    "non-finite-output": "the network answered NaN or infinity for row 3; look at its inputs.",
    "invalid-bundle": "digits/2 is refused: its weights are not those it was published with.",
    "unloaded": "digits was unloaded; an operator can load it: POST /v2/repository/models/digits/load.",
    "draining": "the server is shutting down; ask another one, or later.",
    "compute-died": "the compute thread of this server died; tell the operator to restart it.",
    "deadline-exceeded": "the time for this request is over; send fewer rows, or allow more time.",
}


def problem_docs(*codes: str) -> Responses:
    """Refusals on /v1 and wherever else no protocol says how they look: application/problem+json."""
    return _responses(codes, "application/problem+json", "Problem", {})


def oip_error_docs(*codes: str) -> Responses:
    """Refusals on /v2, as the Open Inference Protocol has them."""
    return _responses(codes, "application/json", "Failure", OIP_STATUS)


def _responses(codes: Sequence[str], media_type: str, schema: str, renumbered: dict[int, int]) -> Responses:
    found: dict[int, list[str]] = {}
    for code in codes:
        status = CODES[code][0]
        found.setdefault(renumbered.get(status, status), []).append(code)
    return {status: _response(status, found[status], media_type, schema) for status in sorted(found)}


def _response(status: int, codes: Sequence[str], media_type: str, schema: str) -> dict[str, Any]:
    examples = {code: {"summary": CODES[code][1], "value": _example(status, code, schema)} for code in codes}
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": examples}}
    description = "; ".join(CODES[code][1] for code in codes)
    headers = {name: header for code, name, header in _HEADERS if code in codes}
    return {"description": f"{description}.", "headers": headers, "content": content}


def _example(status: int, code: str, schema: str) -> dict[str, Any]:
    if schema == "Failure":
        return {"error": _DETAILS[code]}
    return {"type": f"urn:mcdrop:{code}", "title": CODES[code][1], "status": status, "detail": _DETAILS[code]}
