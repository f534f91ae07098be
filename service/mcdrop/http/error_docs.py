"""The error responses of operations, for the OpenAPI document."""

from collections.abc import Sequence
from typing import Any

from mcdrop.http.problems import OIP_STATUS, PROBLEMS_BY_CODE, problem_json
from mcdrop.wire.json import parse_json

Responses = dict[int | str, dict[str, Any]]
_HEADERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "queue-full",
        "Retry-After",
        {
            "description": "Seconds until the waiting requests will have been computed.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        },
    ),
    (
        "unauthorized",
        "WWW-Authenticate",
        {"description": "How to send a key.", "required": True, "schema": {"const": "Bearer"}},
    ),
)
BODY_ERRORS = ("malformed-json", "request-timeout", "body-too-large", "unsupported-media-type", "invalid-request")
MODEL_ERRORS = ("unknown-model", "invalid-bundle", "unloaded", "internal")
COMPUTE_ERRORS = (
    *BODY_ERRORS,
    *MODEL_ERRORS,
    "invalid-input",
    "unknown-measure",
    "queue-full",
    "non-finite-output",
    "draining",
    "compute-died",
    "deadline-exceeded",
)


def problem_docs(*codes: str) -> Responses:
    """Return the OpenAPI responses for problems, as application/problem+json.

    Args:
        *codes: The codes of the problem types.

    Returns:
        The OpenAPI responses for problems, as application/problem+json.
    """
    return _responses(codes, "application/problem+json", "Problem", {})


def oip_error_docs(*codes: str) -> Responses:
    """Return the OpenAPI responses for problems, as the Open Inference Protocol reports them.

    Args:
        *codes: The codes of the problem types.

    Returns:
        The OpenAPI responses for problems, as the Open Inference Protocol reports them.
    """
    return _responses(codes, "application/json", "Failure", OIP_STATUS)


def _responses(codes: Sequence[str], media_type: str, schema: str, renumbered: dict[int, int]) -> Responses:
    found: dict[int, list[str]] = {}
    for code in codes:
        status = PROBLEMS_BY_CODE[code].status
        found.setdefault(renumbered.get(status, status), []).append(code)
    return {status: _response(found[status], media_type, schema) for status in sorted(found)}


def _response(codes: Sequence[str], media_type: str, schema: str) -> dict[str, Any]:
    titles = {code: PROBLEMS_BY_CODE[code].title for code in codes}
    examples = {code: {"summary": title, "value": _example(code, schema)} for code, title in titles.items()}
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": examples}}
    headers = {name: header for code, name, header in _HEADERS if code in codes}
    return {"description": f"{'; '.join(titles.values())}.", "headers": headers, "content": content}


def _example(code: str, schema: str) -> Any:
    problem = PROBLEMS_BY_CODE[code]
    if schema == "Failure":
        return {"error": problem.example}
    return parse_json(problem_json(problem.status, code, problem.title, problem.example))
