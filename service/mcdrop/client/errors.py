"""Errors of the client.

McdropError
├── ServerError   the server refused or failed
└── Unreachable   no answer came, or not all of it
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from dropout_core.errors import McdropError


class ServerError(McdropError):
    """The server refused a request or failed to answer it.

    Args:
        status: HTTP status.
        code: Last part of the problem's type, such as "queue-full".
        detail: What happened, in a sentence.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class Unreachable(McdropError):
    """No answer arrived, or only a part of it: there is no server or no network, or the time is over."""


@contextmanager
def unreachable_errors(url: str) -> Iterator[None]:
    """Turn httpx's errors into Unreachable.

    Args:
        url: URL of the server, for the message.

    Raises:
        Unreachable: httpx raised an error.
    """
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"no answer from {url}: {str(error) or type(error).__name__}.") from error
