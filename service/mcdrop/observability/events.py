"""Events of a server, for metrics, logs and traces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

PhaseName = Literal["decode", "queue", "prefix", "suffix", "encode"]
Outcome = Literal["success", "rejected", "deadline", "cancelled", "invalid", "unavailable", "backend"]


@dataclass(frozen=True)
class Phase:
    """A phase of a request.

    Attributes:
        name: Name of the phase.
        start_ns: Its start, in nanoseconds since 1970 (`time.time_ns`).
        end_ns: Its end.
    """

    name: PhaseName
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class CallFinished:
    """A request about an existing model has been answered or refused.

    Attributes:
        model: Name of the model.
        version: Its version.
        verb: The last part of the path, such as "predict".
        outcome: "success", or why the request failed: the queue was full (rejected), the deadline passed (deadline),
            the client left (cancelled), the request does not fit the model (invalid), the model or the server is
            shutting down (unavailable), or an error of the server (backend).
        rows: Number of rows.
        passes: Number of passes that the request asks for.
        phases: The phases that the request reached, in order.
        measures: The measures that are monitored for drift, [B, …] by name; empty unless the outcome is success.
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
    """A batch has been computed, or has failed.

    Attributes:
        model: Name of the model.
        version: Its version.
        rows: Number of rows.
        passes: Number of passes.
        requests: Number of requests in the batch.
        seconds: Time of the compute thread.
        failed: Whether computing failed.
    """

    model: str
    version: int
    rows: int
    passes: int
    requests: int
    seconds: float
    failed: bool


class Observer(Protocol):
    """Receives events, from the event loop and from the compute thread. It must be quick and safe for threads."""

    def call_finished(self, event: CallFinished) -> None:
        """Receive the end of a request about a model.

        Args:
            event: The request.
        """

    def batch_finished(self, event: BatchFinished) -> None:
        """Receive the end of a batch.

        Args:
            event: The batch.
        """
