"""What happened in a server, for whoever watches: metrics, logs, traces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

PhaseName = Literal["decode", "queue", "prefix", "suffix", "encode"]
Outcome = Literal["success", "rejected", "deadline", "cancelled", "invalid", "unavailable", "backend"]


@dataclass(frozen=True)
class Phase:
    """A part of a request's time. Times are of time.time_ns: nanoseconds since 1970."""

    name: PhaseName
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class CallFinished:
    """A request about a model that exists has been answered or refused.

    model, version: as in the repository. verb: the last part of the path. outcome: success, or why not: the queue was
    full (rejected), time ran out (deadline), the caller left (cancelled), what was asked does not fit (invalid), the
    model or the server is going away (unavailable), anything of ours (backend). phases: those it came to, in order.
    measures: some of the answer, rows first, by name; empty unless it is a success.
    """

    model: str
    version: int
    verb: str
    outcome: Outcome
    rows: int
    passes: int
    phases: tuple[Phase, ...] = ()
    measures: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchFinished:
    """A batch has been computed, or has failed. seconds: of the compute thread."""

    model: str
    version: int
    rows: int
    passes: int
    requests: int
    seconds: float
    failed: bool


class Observer(Protocol):
    """Somebody who watches. Called from the event loop and from the compute thread: quick, and safe for threads."""

    def call_finished(self, event: CallFinished) -> None:
        """A request has been answered."""

    def batch_finished(self, event: BatchFinished) -> None:
        """A batch has been computed."""
