"""When to retry a request and how long to wait. Pure decisions; nothing here uses the network."""

import math
import random
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx

from dropout_core.errors import InvalidInput

# Temporary failures: the server is overloaded or starting.
_TEMPORARY = {429, 503}
_FIRST_S, _LONGEST_S = 0.1, 5.0
# Added to the timeout that the server is told, so that its own timeout error arrives in time.
_GRACE_S = 0.25


class RetryPolicy:
    """Time and retries of one request.

    Args:
        timeout_s: Seconds for the request with all its retries.
        retries: Most retries.
    """

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._end = time.monotonic() + timeout_s
        self._retries, self._tried = retries, 0

    @property
    def left_s(self) -> float:
        """Seconds left, at least 0.001."""
        return max(0.001, self._end - time.monotonic())

    @property
    def headers(self) -> dict[str, str]:
        """Headers that tell the server the time left."""
        return {"X-Request-Timeout-Ms": str(math.ceil(1000 * self.left_s))}

    @property
    def timeout_s(self) -> float:
        """Seconds to wait for the server's next bytes."""
        return self.left_s + _GRACE_S

    def pause_s(self, response: httpx.Response) -> float | None:
        """Return the pause before the next try.

        The pause doubles with each try and is shortened by a random factor, so that callers who were refused together
        do not return together. It is never shorter than the server's Retry-After.

        Args:
            response: The response to the last try.

        Returns:
            Seconds, or None if the response is final.
        """
        if response.status_code not in _TEMPORARY or self._tried >= self._retries:
            return None
        backoff = min(_FIRST_S * 2.0**self._tried, _LONGEST_S) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        pause = max(backoff, _seconds(response.headers.get("retry-after", "")))
        if pause >= self._end - time.monotonic():
            return None
        self._tried += 1
        return pause


def check_retry_options(timeout_s: float, retries: int) -> tuple[float, int]:
    """Return the options of a client after checking them.

    Args:
        timeout_s: Seconds for a request with all its retries.
        retries: Most retries.

    Returns:
        Both values.

    Raises:
        InvalidInput: A value is out of range.
    """
    if not 0 < timeout_s <= 1e6:
        raise InvalidInput(f"timeout_s is {timeout_s}; give seconds above 0 and up to a million.")
    if retries < 0:
        raise InvalidInput(f"retries is {retries}; give 0 or more.")
    return timeout_s, retries


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, which holds seconds or a date; 0 if it cannot be read."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    wait: timedelta = date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)
    return wait.total_seconds()
