"""What can go wrong with a request.

McdropError
├── ServerError   the server refused or failed
└── Unreachable   no answer came, or not all of it
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from dropout_core.errors import McdropError


class ServerError(McdropError):
    """The server refused or failed. `status` is that of HTTP, `code` the last part of the problem's type."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class Unreachable(McdropError):
    """No answer came, or not all of it: no server there, no network, or no time left."""


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns httpx's errors into Unreachable."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"no answer from {url}: {str(error) or type(error).__name__}.") from error
