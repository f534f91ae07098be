"""Answers as numpy."""

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
    """An answer: one array for each measure, rows first; and the run, which the same seed repeats.

    defer: bool [B], where any measure of defer_above lies above its threshold; None where none was named.
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
        """The answer of a run."""
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
        """All but the outputs."""
        facts = {one.name: getattr(self, one.name) for one in fields(Provenance)}
        return Provenance(**{**facts, "labels": self.labels or (), "quantiles": self.quantiles or ()})


@dataclass(frozen=True)
class Row:
    """The answer to one row as it came, and what it is part of. index: its number among those sent.

    defer: whether it is for a human; None where no threshold was named.
    """

    index: int
    outputs: Mapping[str, NDArray[Any]]
    run: Provenance
    defer: bool | None = None


@dataclass(frozen=True)
class RankedRows:
    """Rows in the order they were picked.

    score: None of k_centre and badge, which have no scores either. scores: in the score's own sign; of batchbald the
    joint score up to and with each row. parts: measures of these rows, [k] each. reduction: how several numbers of a
    row became one. saturated: the picks of batchbald use up what the passes can tell. considered: how many rows the
    selector looked at. run, digest: what repeats the choice.
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


class Lines:
    """A streamed answer, read as it comes."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._rest = response, b""
        try:
            self._run = Provenance.told(response.headers)
        except (KeyError, ValueError) as error:
            raise _stranger(response) from error

    def rows(self, chunk: bytes) -> Iterator[Row]:
        """The rows that a chunk completes. Raises ServerError where the server tells that there will be no more."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield self._row(line)

    def end(self) -> None:
        """Raises Unreachable where the end is not that of a row."""
        if self._rest:
            raise Unreachable("the answer ended in the middle of a row; ask again.")

    def _row(self, line: bytes) -> Row:
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _stranger(self._response) from error
        if "error" in values:
            raise _refusal(values["error"])
        index = values.pop("row")
        defer = values.pop(DEFER, None)
        return Row(index, {name: np.asarray(value) for name, value in values.items()}, self._run, defer)


def content_of(response: httpx.Response, form: str) -> bytes:
    """The body of an answer that was read, of the form that was asked for. Raises ServerError."""
    kind = response.headers.get("content-type", "")
    if response.is_success and kind.startswith(form):
        return response.content
    if kind.startswith("application/problem+json"):
        raise _refusal(orjson.loads(response.content))
    raise _stranger(response)


def is_streamed(response: httpx.Response) -> bool:
    """Whether rows follow. Otherwise the answer is to be read, and `content_of` says what it is."""
    return bool(response.is_success) and response.headers.get("content-type", "").startswith(NDJSON)


def prediction_of(response: httpx.Response) -> Prediction:
    """The answer to a predict request. Raises ServerError."""
    members, run = _members(response)
    return Prediction.of(run, members)


def ranking_of(response: httpx.Response, ids: Sequence[str | int] | None) -> RankedRows:
    """The answer to a rank request. ids: names of the rows that were sent. Raises ServerError."""
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
        raise _stranger(response) from error


def is_ready(response: httpx.Response) -> bool:
    """Whether models can be asked. Raises ServerError where another server answers."""
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return False
    content_of(response, "application/json")
    return True


def _members(response: httpx.Response) -> tuple[dict[str, NDArray[Any]], Provenance]:
    try:
        with np.load(io.BytesIO(content_of(response, NPZ)), allow_pickle=False) as archive:
            members = dict(archive)
        return members, Provenance.taken(members)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _stranger(response) from error


def _refusal(problem: Mapping[str, Any]) -> ServerError:
    return ServerError(problem["status"], problem["type"].rpartition(":")[2], problem["detail"])


def _stranger(response: httpx.Response) -> ServerError:
    asked = response.request
    return ServerError(
        response.status_code,
        "http",
        f"{asked.method} {asked.url} answered {response.status_code} {response.reason_phrase}; is it a mcdrop server?",
    )
