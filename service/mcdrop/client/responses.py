"""Responses of a server as numpy arrays."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from mcdrop.client.errors import ServerError, Unreachable
from mcdrop.http.media_types import NDJSON, NPZ
from mcdrop.inference.provenance import DEFER, Provenance


@dataclass(frozen=True)
class Prediction:
    """The response to a predict request.

    Attributes:
        model: Name of the model.
        version: Its version.
        passes: Number of passes, or the most with a tolerance.
        seed: Seed of the masks.
        outputs: An array [B, …] for each measure, by name.
        labels: Names of the classes, if the model has them.
        quantiles: Levels of the quantiles, if requested.
        sampling: How the passes drew: "balanced" or "iid".
        masks: "shared" or "independent".
        branches: Passes that share the noise of all sites but the last.
        noise: Version of the noise generator.
        defer_above: Thresholds by measure.
        defer: bool [B], whether any measure of a row exceeds its threshold; None without thresholds.
    """

    model: str
    version: int
    passes: int
    seed: int
    outputs: Mapping[str, NDArray[Any]]
    labels: tuple[str, ...] | None
    quantiles: tuple[float, ...] | None
    sampling: str
    masks: str
    branches: int
    noise: int
    defer_above: Mapping[str, float] = field(default_factory=dict)
    defer: NDArray[Any] | None = None

    @staticmethod
    def of(run: Provenance, outputs: Mapping[str, NDArray[Any]]) -> "Prediction":
        """Build a prediction from a run and its outputs.

        Args:
            run: Provenance of the outputs.
            outputs: Arrays by measure; the array `defer` if there are thresholds.

        Returns:
            The prediction.
        """
        measures = dict(outputs)
        return Prediction(
            **run.facts,
            defer=measures.pop(DEFER, None),
            outputs=measures,
            labels=run.labels or None,
            quantiles=run.quantiles or None,
            defer_above=run.defer_above,
        )

    @property
    def run(self) -> Provenance:
        """Everything but the outputs."""
        facts = {one.name: getattr(self, one.name) for one in fields(Provenance)}
        return Provenance(**{**facts, "labels": self.labels or (), "quantiles": self.quantiles or ()})

    def __repr__(self) -> str:
        """The run, and the shape of each measure rather than its numbers."""
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in self.outputs.items())
        return f"Prediction({self.model}/{self.version}, passes={self.passes}, seed={self.seed}, outputs: {shapes})"


@dataclass(frozen=True)
class Row:
    """One row of a streamed response.

    Attributes:
        index: Number of the row in the request.
        outputs: Measures of the row by name.
        run: Provenance of the response.
        defer: Whether a human should see the row; None without thresholds.
    """

    index: int
    outputs: Mapping[str, NDArray[Any]]
    run: Provenance
    defer: bool | None = None


@dataclass(frozen=True)
class RankedRows:
    """The response to a rank request: rows in the order of the picks.

    Attributes:
        model: Name of the model.
        version: Its version.
        score: Name of the score; None for "k_centre" and "badge".
        indices: int64 [k], the numbers of the chosen rows.
        scores: float64 [k] in the score's own sign; for "batchbald" the joint score of all picks so far.
        ids: Names of the chosen rows, if ids were sent.
        selector: Name of the selector.
        parts: Measures of the chosen rows, [k] each.
        reduction: How several numbers of a row became one.
        shares: For "batchbald", the scores over the most that the passes can tell, [k].
        saturated: Whether a share exceeds 0.9, after which picks are noise.
        considered: Number of rows that the selector considered.
        digest: Digest of the bundle.
        run: Provenance; with the digest it repeats the choice.
    """

    model: str
    version: int
    score: str | None
    indices: NDArray[Any]
    scores: NDArray[Any] | None
    ids: tuple[str | int, ...] | None
    selector: str = "top_k"
    parts: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    reduction: str | None = None
    shares: NDArray[Any] | None = None
    saturated: bool = False
    considered: int = 0
    digest: str = ""
    run: Provenance | None = None


class RowStream:
    """Reads the rows of a streamed response as they arrive.

    Args:
        response: The response, whose body has not been read.

    Raises:
        ServerError: The response is not from a mcdrop server.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._rest = response, b""
        try:
            self._run = Provenance.from_headers(response.headers)
        except (KeyError, ValueError) as error:
            raise _foreign_error(response) from error

    def rows(self, chunk: bytes) -> Iterator[Row]:
        """Yield the rows that a chunk completes.

        Args:
            chunk: The next bytes of the body.

        Yields:
            Rows in order.

        Raises:
            ServerError: The server reports an error, after which no row follows.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield self._row(line)

    def end(self) -> None:
        """Check that the body ended after a row. Raises Unreachable if it did not."""
        if self._rest:
            raise Unreachable("the answer ended in the middle of a row; send the request again.")

    def _row(self, line: bytes) -> Row:
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _foreign_error(self._response) from error
        if "error" in values:
            raise _server_error(values["error"])
        index = values.pop("row")
        defer = values.pop(DEFER, None)
        return Row(index, {name: np.asarray(value) for name, value in values.items()}, self._run, defer)


def checked_content(response: httpx.Response, media_type: str) -> bytes:
    """Return the body of a successful response.

    Args:
        response: The response, whose body has been read.
        media_type: Media type that was requested.

    Returns:
        The body.

    Raises:
        ServerError: The server refused the request, or the response has another media type.
    """
    kind = response.headers.get("content-type", "")
    if response.is_success and kind.startswith(media_type):
        return response.content
    if kind.startswith("application/problem+json"):
        raise _server_error(orjson.loads(response.content))
    raise _foreign_error(response)


def is_streamed(response: httpx.Response) -> bool:
    """Return whether rows follow.

    Args:
        response: The response, whose body has not been read.

    Returns:
        False if the body holds an error, which `checked_content` raises.
    """
    return bool(response.is_success) and response.headers.get("content-type", "").startswith(NDJSON)


def parse_prediction(response: httpx.Response) -> Prediction:
    """Return the response to a predict request.

    Args:
        response: The response, whose body has been read.

    Returns:
        The prediction.

    Raises:
        ServerError: The server refused the request or failed.
    """
    members, run = _members(response)
    return Prediction.of(run, members)


def parse_ranking(response: httpx.Response, ids: Sequence[str | int] | None) -> RankedRows:
    """Return the response to a rank request.

    Args:
        response: The response, whose body has been read.
        ids: Names of the rows that were sent.

    Returns:
        The chosen rows.

    Raises:
        ServerError: The server refused the request or failed.
    """
    members, run = _members(response)
    try:
        indices = members.pop("indices")
        score, reduction = (str(members.pop(name)) if name in members else None for name in ("score", "reduction"))
        return RankedRows(
            run.model,
            run.version,
            score,
            indices,
            scores=members.pop("scores", None),
            ids=None if ids is None else tuple(ids[index] for index in indices),
            shares=members.pop("shares", None),
            saturated=bool(members.pop("saturated", False)),
            considered=int(members.pop("considered")),
            run=run,
            selector=str(members.pop("selector")),
            digest=str(members.pop("digest")),
            reduction=reduction,
            parts=members,
        )
    except KeyError as error:
        raise _foreign_error(response) from error


def is_ready(response: httpx.Response) -> bool:
    """Return whether the server can answer queries.

    Args:
        response: The response of the readiness endpoint.

    Returns:
        Whether at least one model is ready.

    Raises:
        ServerError: The response is not from a mcdrop server.
    """
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return False
    checked_content(response, "application/json")
    return True


def _members(response: httpx.Response) -> tuple[dict[str, NDArray[Any]], Provenance]:
    try:
        with np.load(io.BytesIO(checked_content(response, NPZ)), allow_pickle=False) as archive:
            members = dict(archive)
        return members, Provenance.from_members(members)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _foreign_error(response) from error


def _server_error(problem: Mapping[str, Any]) -> ServerError:
    return ServerError(problem["status"], problem["type"].rpartition(":")[2], problem["detail"])


def _foreign_error(response: httpx.Response) -> ServerError:
    request = response.request
    return ServerError(
        response.status_code,
        "http",
        f"{request.method} {request.url} answered {response.status_code} {response.reason_phrase}; "
        "is this an mcdrop server?",
    )
