"""Errors of the wire. What status each becomes stands in service/mcdrop/http/problems.py.

McdropError
├── RequestError
│   ├── MalformedJson         400  the body is not JSON
│   ├── Unauthorized          401  no key, or a wrong one
│   ├── Forbidden             403  a key whose scopes do not reach so far
│   ├── NotAcceptable         406  no such form of an answer
│   ├── RequestTimeout        408  the body came too slowly
│   ├── BodyTooLarge          413  refused before it is parsed
│   ├── UnsupportedMediaType  415  a form or an encoding of a body that is not read
│   ├── InvalidRequest        422  it can be read and does not fit
│   └── ClientGone            499  the caller left: nobody reads the answer
└── ServiceError
    ├── QueueFull             429  enough waits already
    ├── Draining              503  the server is going away
    ├── ComputeDied           503  the thread that computes ended
    ├── Unloaded              503  an operator took the model out of service
    └── DeadlineExceeded      504  the caller's time, or the server's longest, is over
"""

from dropout_core.errors import McdropError


class RequestError(McdropError):
    """Something about a request."""


class MalformedJson(RequestError):
    """The body is not JSON."""


class Unauthorized(RequestError):
    """No key, or a wrong one."""


class Forbidden(RequestError):
    """A key whose scopes do not reach so far."""


class NotAcceptable(RequestError):
    """No such form of an answer."""


class RequestTimeout(RequestError):
    """The body came too slowly."""


class BodyTooLarge(RequestError):
    """The body is larger than the server accepts."""


class UnsupportedMediaType(RequestError):
    """A form or an encoding of a body that is not read."""


class InvalidRequest(RequestError):
    """The body can be read and does not fit."""


class ClientGone(RequestError):
    """The caller left."""


class ServiceError(McdropError):
    """The server cannot do it now."""


class QueueFull(ServiceError):
    """Enough waits already. retry_after_s: when it will have been computed."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(ServiceError):
    """The server is going away."""


class ComputeDied(ServiceError):
    """The thread that computes ended."""


class Unloaded(ServiceError):
    """An operator took the model out of service."""


class DeadlineExceeded(ServiceError):
    """The caller's time, or the server's longest, is over."""
