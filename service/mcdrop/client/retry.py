"""How long to wait, and how often to ask again. No network: decisions only."""

import math
import random
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from dropout_core.errors import InvalidInput

# What passes: the server has too much to do, or is about to be there.
_PASSING = {429, 503}
_FIRST_S, _LONGEST_S = 0.1, 5.0
# How much longer to wait than the server was told, to hear from it that the time is over.
_GRACE_S = 0.25


class Patience:
    """One question's time and tries."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._end = time.monotonic() + timeout_s
        self._retries, self._tried = retries, 0

    @property
    def left_s(self) -> float:
        """The time left, a millisecond at least."""
        return max(0.001, self._end - time.monotonic())

    @property
    def headers(self) -> dict[str, str]:
        """What the server is told of it."""
        return {"X-Request-Timeout-Ms": str(math.ceil(1000 * self.left_s))}

    @property
    def timeout_s(self) -> float:
        """How long to wait for each next word of the server."""
        return self.left_s + _GRACE_S

    def pause_s(self, response: httpx.Response) -> float | None:
        """How long to wait before asking again; None: this is the answer.

        Twice as long after each try, and by chance shorter, so that callers who were refused together do not come back
        together; no shorter than the server says.
        """
        if response.status_code not in _PASSING or self._tried >= self._retries:
            return None
        backoff = min(_FIRST_S * 2.0**self._tried, _LONGEST_S) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        pause = max(backoff, _seconds(response.headers.get("retry-after", "")))
        if pause >= self._end - time.monotonic():
            return None
        self._tried += 1
        return pause


def checked(timeout_s: float, retries: int) -> tuple[float, int]:
    """What a client was given. Raises InvalidInput."""
    if not 0 < timeout_s <= 1e6:
        raise InvalidInput(f"timeout_s is {timeout_s}; give seconds above 0 and up to a million.")
    if retries < 0:
        raise InvalidInput(f"retries is {retries}; give 0 or more.")
    return timeout_s, retries


def _seconds(retry_after: str) -> float:
    """The wait that a Retry-After header asks for: seconds, or a date. None that can be read is none."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    wait: timedelta = date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)
    return wait.total_seconds()
