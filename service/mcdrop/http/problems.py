"""The one table that maps every error to a status, and the answers made by it.

Answers are application/problem+json (RFC 9457), and below /v2 what clients of the Open Inference Protocol read. What is
not in the table is a fault of ours: 500, with a fixed text.
"""

import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from dropout_core.errors import InvalidInput, NonFiniteOutput, UnknownMeasure
from mcdrop.errors import (
    BodyTooLarge,
    ClientGone,
    ComputeDied,
    DeadlineExceeded,
    Draining,
    Forbidden,
    InvalidRequest,
    MalformedJson,
    NotAcceptable,
    QueueFull,
    RequestTimeout,
    Unauthorized,
    Unloaded,
    UnsupportedMediaType,
)
from mcdrop.observability.events import Outcome
from mcdrop.observability.middleware import current
from mcdrop_models.errors import InvalidBundle, UnknownModel

_OIP = "/v2"
_INTERNAL = (500, "internal", "Something failed in the server")
_INTERNAL_DETAIL = "The failure was logged; try again, or tell the operator."

_STATUS: dict[type[Exception], tuple[int, str, str]] = {
    MalformedJson: (400, "malformed-json", "The body is not JSON"),
    Unauthorized: (401, "unauthorized", "A key is required"),
    Forbidden: (403, "forbidden", "The key does not reach so far"),
    UnknownModel: (404, "unknown-model", "There is no such model"),
    NotAcceptable: (406, "not-acceptable", "There is no such form of an answer"),
    RequestTimeout: (408, "request-timeout", "The body came too slowly"),
    BodyTooLarge: (413, "body-too-large", "The body is too large"),
    UnsupportedMediaType: (415, "unsupported-media-type", "The body is of no form that is read"),
    InvalidRequest: (422, "invalid-request", "The request does not fit"),
    InvalidInput: (422, "invalid-input", "The inputs do not fit"),
    UnknownMeasure: (422, "unknown-measure", "The model has no such measure"),
    QueueFull: (429, "queue-full", "Enough waits already"),
    ClientGone: (499, "client-gone", "The caller left"),
    NonFiniteOutput: (500, "non-finite-output", "The network answered NaN or infinity"),
    InvalidBundle: (503, "invalid-bundle", "The model cannot be served"),
    Unloaded: (503, "unloaded", "The model is out of service"),
    Draining: (503, "draining", "The server is shutting down"),
    ComputeDied: (503, "compute-died", "The server cannot compute"),
    DeadlineExceeded: (504, "deadline-exceeded", "The time is over"),
}
# Each code with its status and title.
CODES = {code: (status, title) for status, code, title in (*_STATUS.values(), _INTERNAL)}
# Statuses for which those of the Open Inference Protocol know no number of their own.
OIP_STATUS = {422: 400}
_OUTCOMES: dict[int, Outcome] = {
    408: "deadline",
    429: "rejected",
    499: "cancelled",
    503: "unavailable",
    504: "deadline",
}


def status_of(error: BaseException) -> tuple[int, str, str]:
    """The status, the code and the title of an error."""
    return next((row for kind, row in _STATUS.items() if isinstance(error, kind)), _INTERNAL)


def outcome_of(error: BaseException) -> Outcome:
    """What became of a request that ended so."""
    status = status_of(error)[0]
    return _OUTCOMES.get(status, "backend" if status >= 500 else "invalid")


def error_response(error: BaseException, path: str) -> Response:
    """The answer to an error, in the form that a path's callers read."""
    status, code, title = status_of(error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, QueueFull) else {}
    detail = _INTERNAL_DETAIL if code == "internal" else str(error)
    return problem_response(path, status, code, title, detail, headers)


def problem_response(path: str, status: int, code: str, title: str, detail: str, headers: dict[str, str]) -> Response:
    """A refusal, in the form that a path's callers read."""
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer", **headers}
    if is_oip(path):
        detail = f"Request for unknown model: {detail}" if code == "unknown-model" else detail
        body = orjson.dumps({"error": detail})
        return Response(body, OIP_STATUS.get(status, status), headers, media_type="application/json")
    return Response(problem_json(status, code, title, detail), status, headers, media_type="application/problem+json")


def problem_json(status: int, code: str, title: str, detail: str) -> bytes:
    """The body of an application/problem+json answer."""
    return orjson.dumps({"type": f"urn:mcdrop:{code}", "title": title, "status": status, "detail": detail})


async def on_mcdrop_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for errors of ours."""
    return error_response(error, request.url.path)


async def on_invalid_path(request: Request, _: Exception) -> Response:
    """FastAPI's handler for a path with a version that is no number."""
    detail = f"{request.url.path} names no version: versions are whole numbers."
    return problem_response(request.url.path, 404, "unknown-model", "There is no such model", detail, {})


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for unknown paths and methods."""
    if not isinstance(error, HTTPException):
        return error_response(error, request.url.path)
    detail = f"{request.method} {request.url.path}: {error.detail}. See /docs."
    headers = dict(error.headers or {})
    return problem_response(request.url.path, error.status_code, "http", error.detail, detail, headers)


async def on_unexpected_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for everything else; the server logs it. It stands above what gives answers their id."""
    answer, exchange = error_response(error, request.url.path), current()
    if exchange is not None:
        answer.headers["X-Request-Id"] = exchange.request_id
    return answer


def is_oip(path: str) -> bool:
    """Whether callers of a path read what the Open Inference Protocol says."""
    return path == _OIP or path.startswith(f"{_OIP}/")
