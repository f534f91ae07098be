"""Errors of the wire, and the one table that maps every error to a status.

McdropError
└── RequestError
    ├── MalformedJson   400  the body is not JSON
    ├── Unauthorized    401  no key, or a wrong one
    ├── BodyTooLarge    413  refused before it is parsed
    └── InvalidRequest  422  JSON that does not fit

Answers are application/problem+json (RFC 9457). What is not in the table is a fault of ours: 500, with a fixed text.
"""

import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from dropout_core.errors import InvalidInput, McdropError, NonFiniteOutput, UnknownMeasure
from models.errors import InvalidBundle, UnknownModel


class RequestError(McdropError):
    """Something about a request."""


class MalformedJson(RequestError):
    """The body is not JSON."""


class Unauthorized(RequestError):
    """No key, or a wrong one."""


class BodyTooLarge(RequestError):
    """The body is larger than the server accepts."""


class InvalidRequest(RequestError):
    """The body is JSON that does not fit."""


_STATUS: dict[type[Exception], tuple[int, str, str]] = {
    MalformedJson: (400, "malformed-json", "The body is not JSON"),
    Unauthorized: (401, "unauthorized", "A key is required"),
    UnknownModel: (404, "unknown-model", "There is no such model"),
    BodyTooLarge: (413, "body-too-large", "The body is too large"),
    InvalidRequest: (422, "invalid-request", "The request does not fit"),
    InvalidInput: (422, "invalid-input", "The inputs do not fit"),
    UnknownMeasure: (422, "unknown-measure", "The model has no such measure"),
    NonFiniteOutput: (500, "non-finite-output", "The network answered NaN or infinity"),
    InvalidBundle: (503, "invalid-bundle", "The model cannot be served"),
}


def problem(status: int, code: str, title: str, detail: str) -> Response:
    """An application/problem+json answer."""
    body = {"type": f"urn:mcdrop:{code}", "title": title, "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return Response(orjson.dumps(body), status, headers, media_type="application/problem+json")


def answer_of(error: McdropError) -> Response:
    """The answer to an error of ours, by its class."""
    for kind, (status, code, title) in _STATUS.items():
        if isinstance(error, kind):
            return problem(status, code, title, str(error))
    return unexpected()


def unexpected() -> Response:
    """The answer to a fault of ours: nothing of it leaks."""
    return problem(
        500,
        "internal",
        "Something failed in the server",
        "The failure was logged; try again, or tell the operator.",
    )


async def on_mcdrop_error(_: Request, error: Exception) -> Response:
    """Starlette's handler for errors of ours."""
    return answer_of(error) if isinstance(error, McdropError) else unexpected()


async def on_invalid_path(request: Request, _: Exception) -> Response:
    """FastAPI's handler for a path with a version that is no number."""
    return problem(
        404,
        "unknown-model",
        "There is no such model",
        f"{request.url.path} names no version: versions are whole numbers.",
    )


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for unknown paths and methods."""
    if not isinstance(error, HTTPException):
        return unexpected()
    answer = problem(
        error.status_code,
        "http",
        error.detail,
        f"{request.method} {request.url.path}: {error.detail}. See /docs.",
    )
    answer.headers.update(error.headers or {})
    return answer


async def on_unexpected_error(_: Request, __: Exception) -> Response:
    """Starlette's handler for everything else; the server logs it."""
    return unexpected()
