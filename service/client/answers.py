"""Answers as numpy."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from service.client.errors import ServerError, Unreachable
from service.forms import NDJSON, NPZ
from service.run import Run


@dataclass(frozen=True)
class Prediction:
    """An answer: one array for each measure, rows first; and the run, which the same seed repeats."""

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

    @staticmethod
    def of(run: Run, outputs: Mapping[str, NDArray[Any]]) -> "Prediction":
        """The answer of a run."""
        return Prediction(**run.facts, outputs=outputs, labels=run.labels or None, quantiles=run.quantiles or None)

    @property
    def run(self) -> Run:
        """All but the outputs."""
        facts = {field.name: getattr(self, field.name) for field in fields(Run)}
        return Run(**{**facts, "labels": self.labels or (), "quantiles": self.quantiles or ()})


@dataclass(frozen=True)
class Row:
    """The answer to one row as it came, and what it is part of. index: its number among those sent."""

    index: int
    outputs: Mapping[str, NDArray[Any]]
    run: Run


@dataclass(frozen=True)
class RankedRows:
    """Rows in the order to label them."""

    model: str
    version: int
    score: str
    indices: NDArray[Any]
    scores: NDArray[Any]
    ids: tuple[str | int, ...] | None


class Lines:
    """A streamed answer, read as it comes."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._rest = response, b""
        try:
            self._run = Run.told(response.headers)
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
        return Row(index, {name: np.asarray(value) for name, value in values.items()}, self._run)


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
    indices = members["indices"]
    named = None if ids is None else tuple(ids[index] for index in indices)
    return RankedRows(run.model, run.version, str(members["score"]), indices, members["scores"], named)


def is_ready(response: httpx.Response) -> bool:
    """Whether models can be asked. Raises ServerError where another server answers."""
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return False
    content_of(response, "application/json")
    return True


def _members(response: httpx.Response) -> tuple[dict[str, NDArray[Any]], Run]:
    try:
        with np.load(io.BytesIO(content_of(response, NPZ)), allow_pickle=False) as archive:
            members = dict(archive)
        return members, Run.taken(members)
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
