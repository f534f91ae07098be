"""Every error of the server, with the problem that each is reported as.

McdropError
├── RequestError             the request is at fault
│   ├── MalformedJson         400
│   ├── Unauthorized          401
│   ├── Forbidden             403
│   ├── NotAcceptable         406
│   ├── RequestTimeout        408
│   ├── BodyTooLarge          413
│   ├── UnsupportedMediaType  415
│   ├── InvalidRequest        422
│   └── ClientGone            499
└── ServiceError             the server cannot answer now
    ├── QueueFull             429
    ├── Draining              503
    ├── ComputeDied           503
    ├── Unloaded              503
    └── DeadlineExceeded      504
"""

from dataclasses import dataclass
from typing import ClassVar

from dropout_core.errors import McdropError


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem, as RFC 9457 defines it.

    Attributes:
        status: The HTTP status.
        code: The last part of the type URI, `urn:mcdrop:CODE`.
        title: A summary that is the same for every occurrence.
        example: A detail of one occurrence, for the OpenAPI document.
    """

    status: int
    code: str
    title: str
    example: str


class RequestError(McdropError):
    """The request is at fault. Each subclass has the problem that it is reported as."""

    problem: ClassVar[ProblemType]


class MalformedJson(RequestError):
    """The body is not JSON."""

    problem = ProblemType(
        400,
        "malformed-json",
        "The body is not JSON",
        "the body is not JSON: unexpected end of data: line 1 column 12 (char 11).",
    )


class Unauthorized(RequestError):
    """The request has no API key, or an unknown one."""

    problem = ProblemType(
        401,
        "unauthorized",
        "An API key is required",
        "send the server's key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
    )


class Forbidden(RequestError):
    """The key lacks the required scope."""

    problem = ProblemType(
        403,
        "forbidden",
        "The key lacks the required scope",
        "this key may only predict; it takes one that 'mcdrop key new NAME --scope admin' makes.",
    )


class NotAcceptable(RequestError):
    """The server writes none of the media types that the Accept header names."""

    problem = ProblemType(
        406,
        "not-acceptable",
        "None of the accepted media types is available",
        "the Accept header is 'text/csv'; this endpoint writes application/json, application/x-npz.",
    )


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    problem = ProblemType(
        408,
        "request-timeout",
        "The body did not arrive in time",
        "the body did not arrive in time. Send it faster, or send fewer rows.",
    )


class BodyTooLarge(RequestError):
    """The body is larger than the server accepts. It is refused before it is parsed."""

    problem = ProblemType(
        413,
        "body-too-large",
        "The body is too large",
        "the body has 20000000 bytes; 16777216 are accepted. Send fewer rows at a time.",
    )


class UnsupportedMediaType(RequestError):
    """The server does not read the Content-Type or the Content-Encoding of the body."""

    problem = ProblemType(
        415,
        "unsupported-media-type",
        "Unsupported media type",
        "the body's Content-Encoding is 'br'; send it plain, or as gzip or deflate.",
    )


class InvalidRequest(RequestError):
    """The body can be read, but its fields are not those of the endpoint."""

    problem = ProblemType(
        422,
        "invalid-request",
        "The request has invalid fields",
        "passes: Input should be a valid integer. The fields are inputs, passes, seed.",
    )


class ClientGone(RequestError):
    """The client closed the connection before the response."""

    problem = ProblemType(
        499, "client-gone", "The client closed the connection", "the client left before the response."
    )


class ServiceError(McdropError):
    """The server cannot answer now. Each subclass has the problem that it is reported as."""

    problem: ClassVar[ProblemType]


class QueueFull(ServiceError):
    """The request queue is full.

    Args:
        message: What waits, and what is allowed.
        retry_after_s: Seconds until the waiting requests will have been computed.
    """

    problem = ProblemType(
        429,
        "queue-full",
        "The request queue is full",
        "the queue holds 1024 requests (31.5 s of computing), and this one would add 0.2 s. Limits: 1024 requests, "
        "30 s. Retry in 32 s.",
    )

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(ServiceError):
    """The server is shutting down."""

    problem = ProblemType(
        503, "draining", "The server is shutting down", "the server is shutting down. Ask another one, or retry later."
    )


class ComputeDied(ServiceError):
    """The compute thread ended."""

    problem = ProblemType(
        503,
        "compute-died",
        "The compute thread has died",
        "the compute thread of this server died. Tell the operator to restart it.",
    )


class Unloaded(ServiceError):
    """An operator took the model out of service."""

    problem = ProblemType(
        503,
        "unloaded",
        "The model is out of service",
        "digits was unloaded; an operator can load it: POST /v2/repository/models/digits/load.",
    )


class DeadlineExceeded(ServiceError):
    """The client's timeout, or the server's longest, is over."""

    problem = ProblemType(
        504,
        "deadline-exceeded",
        "Deadline exceeded",
        "the deadline of this request has passed. Send fewer rows, request fewer passes, or allow more time.",
    )
