"""Responses to errors: application/problem+json (RFC 9457), and below /v2 the errors of the Open Inference Protocol.

An error without a problem type is a fault of the server: 500, with a fixed text that reveals nothing.
"""

import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from dropout_core.errors import InvalidInput, NonFiniteOutput, UnknownMeasure
from mcdrop.errors import ProblemType, QueueFull, RequestError, ServiceError
from mcdrop.observability.events import Outcome
from mcdrop.observability.middleware import current
from mcdrop_models.errors import InvalidBundle, UnknownModel

_OIP = "/v2"
_INTERNAL = ProblemType(
    500, "internal", "Internal server error", "The failure was logged; try again, or tell the operator."
)
_UNKNOWN_MODEL = ProblemType(
    404, "unknown-model", "Unknown model", "there is no model 'digit'; there are digits, heights."
)
# The errors of the libraries, which know nothing of HTTP.
_LIBRARY_PROBLEMS: dict[type[Exception], ProblemType] = {
    UnknownModel: _UNKNOWN_MODEL,
    InvalidInput: ProblemType(
        422,
        "invalid-input",
        "The inputs do not fit the model",
        "row 0 has 7 values, not 8; x takes float32 of shape [8, 8] for each row.",
    ),
    UnknownMeasure: ProblemType(
        422,
        "unknown-measure",
        "The model has no such measure",
        "digits has no measure 'entrpy'; it has mean, variance, predictive_entropy.",
    ),
    NonFiniteOutput: ProblemType(
        500,
        "non-finite-output",
        "The network returned NaN or infinity",
        "the network answered NaN or infinity for row 3; look at its inputs.",
    ),
    InvalidBundle: ProblemType(
        503,
        "invalid-bundle",
        "The model cannot be served",
        "digits/2 is refused: its weights are not those it was published with.",
    ),
}
_PROBLEMS: dict[type[Exception], ProblemType] = {
    **{kind: kind.problem for kind in RequestError.__subclasses__()},
    **{kind: kind.problem for kind in ServiceError.__subclasses__()},
    **_LIBRARY_PROBLEMS,
}
PROBLEMS_BY_CODE = {problem.code: problem for problem in (*_PROBLEMS.values(), _INTERNAL)}
# The Open Inference Protocol has no 422.
OIP_STATUS = {422: 400}
_OUTCOMES: dict[int, Outcome] = {
    408: "deadline",
    429: "rejected",
    499: "cancelled",
    503: "unavailable",
    504: "deadline",
}


def problem_of(error: BaseException) -> ProblemType:
    """Return the problem type of an error; an internal one for errors that have none.

    Args:
        error: Any exception.

    Returns:
        The problem type of an error.
    """
    return next((problem for kind, problem in _PROBLEMS.items() if isinstance(error, kind)), _INTERNAL)


def outcome_of(error: BaseException) -> Outcome:
    """Return how metrics and logs count a request that failed.

    Args:
        error: What the request failed with.

    Returns:
        How metrics and logs count a request that failed.
    """
    status = problem_of(error).status
    return _OUTCOMES.get(status, "backend" if status >= 500 else "invalid")


def error_response(error: BaseException, path: str) -> Response:
    """Return the response to an error, in the format of the protocol that a path belongs to.

    Args:
        error: What the request failed with.
        path: The path of the request.

    Returns:
        The response to an error, in the format of the protocol that a path belongs to.
    """
    problem = problem_of(error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, QueueFull) else {}
    detail = problem.example if problem is _INTERNAL else str(error)
    return _response(path, problem.status, problem.code, problem.title, detail, headers)


def problem_json(status: int, code: str, title: str, detail: str) -> bytes:
    """Return the body of an application/problem+json response.

    Args:
        status: The HTTP status.
        code: The last part of the type URI.
        title: The summary of the problem type.
        detail: What happened, what is allowed and what to do.

    Returns:
        The body of an application/problem+json response.
    """
    return orjson.dumps({"type": f"urn:mcdrop:{code}", "title": title, "status": status, "detail": detail})


async def on_mcdrop_error(request: Request, error: Exception) -> Response:
    """Handle errors that the packages raise on purpose.

    Args:
        request: The request that failed.
        error: What it failed with.

    Returns:
        The response.
    """
    return error_response(error, request.url.path)


async def on_invalid_path(request: Request, _: Exception) -> Response:
    """Handle paths whose version is not a number: they name no model.

    Args:
        request: The request that failed.

    Returns:
        The response.
    """
    detail = f"{request.url.path} names no version: versions are whole numbers."
    problem = _UNKNOWN_MODEL
    return _response(request.url.path, problem.status, problem.code, problem.title, detail, {})


async def on_http_error(request: Request, error: Exception) -> Response:
    """Handle unknown paths and methods.

    Args:
        request: The request that failed.
        error: Starlette's exception.

    Returns:
        The response.
    """
    if not isinstance(error, HTTPException):
        return error_response(error, request.url.path)
    detail = f"{request.method} {request.url.path}: {error.detail}. See /docs."
    return _response(request.url.path, error.status_code, "http", error.detail, detail, dict(error.headers or {}))


async def on_unexpected_error(request: Request, error: Exception) -> Response:
    """Handle every other exception. The server logs it.

    This handler runs above the middleware that sets X-Request-Id, so it sets the header itself.

    Args:
        request: The request that failed.
        error: What it failed with.

    Returns:
        The response.
    """
    response, exchange = error_response(error, request.url.path), current()
    if exchange is not None:
        response.headers["X-Request-Id"] = exchange.request_id
    return response


def is_oip(path: str) -> bool:
    """Return whether a path belongs to the Open Inference Protocol.

    Args:
        path: The path of a request.

    Returns:
        True if a path belongs to the Open Inference Protocol.
    """
    return path == _OIP or path.startswith(f"{_OIP}/")


def _response(path: str, status: int, code: str, title: str, detail: str, headers: dict[str, str]) -> Response:
    """Return an error response in the format of the protocol that a path belongs to."""
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer", **headers}
    if is_oip(path):
        # Clients of the protocol recognise a missing model by this text.
        detail = f"Request for unknown model: {detail}" if code == _UNKNOWN_MODEL.code else detail
        body = orjson.dumps({"error": detail})
        return Response(body, OIP_STATUS.get(status, status), headers, media_type="application/json")
    return Response(problem_json(status, code, title, detail), status, headers, media_type="application/problem+json")
