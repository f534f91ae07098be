"""A client in a few lines: `Client("http://127.0.0.1:8000").predict("digits", x).outputs["mutual_information"]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import orjson
from numpy.typing import ArrayLike, NDArray

from dropout_core.errors import InvalidInput, McdropError

Inputs = ArrayLike | Mapping[str, ArrayLike]


class ServerError(McdropError):
    """The server refused or failed. `status` is that of HTTP, `code` the last part of the problem's type."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class Unreachable(McdropError):
    """No answer came: no server there, no network, or no time left."""


@dataclass(frozen=True)
class Prediction:
    """An answer: one array for each measure, rows first."""

    model: str
    version: int
    passes: int
    seed: int
    outputs: Mapping[str, NDArray[Any]]
    labels: tuple[str, ...] | None
    quantiles: tuple[float, ...] | None


@dataclass(frozen=True)
class RankedRows:
    """Rows in the order to label them."""

    model: str
    version: int
    score: str
    indices: NDArray[Any]
    scores: NDArray[Any]
    ids: tuple[str | int, ...] | None


class Client:
    """Talks to one server. Use as a context manager, or call `close`."""

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        headers = {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """Every version of every model: name, version, state, reason."""
        return list(self._ask("GET", "/v1/models")["models"])

    def model(self, name: str) -> dict[str, Any]:
        """What a caller needs to know of a model."""
        return self._ask("GET", f"/v1/models/{name}")

    def predict(  # noqa: PLR0913 - what a request may say
        self,
        name: str,
        inputs: Inputs,
        *,
        version: int | None = None,
        passes: int | None = None,
        seed: int | None = None,
        tolerance: float | Mapping[str, float] | None = None,
        min_passes: int | None = None,
        sampling: str | None = None,
        masks: str | None = None,
        branches: int | None = None,
        outputs: Sequence[str] | None = None,
        quantiles: Sequence[float] = (),
        samples: bool = False,
    ) -> Prediction:
        """The measures of each row of inputs [B, *F]. What is None is as the bundle says.

        inputs: an array, or for a model of several inputs arrays by name. tolerance: stop a row once the standard error
        of its every mean is at most this, or of the measures named; then passes is the most a row may take, and the
        answer has passes_used and standard_error.
        """
        chosen = {
            "passes": passes,
            "seed": seed,
            "tolerance": dict(tolerance) if isinstance(tolerance, Mapping) else tolerance,
            "min_passes": min_passes,
            "sampling": sampling,
            "masks": masks,
            "branches": branches,
            "outputs": outputs,
        }
        body = {
            "inputs": _native(inputs),
            "quantiles": list(quantiles),
            "samples": samples,
            **_given(chosen),
        }
        answer = self._ask("POST", _path(name, version, "predict"), body)
        return Prediction(
            model=answer["model"],
            version=answer["version"],
            passes=answer["passes"],
            seed=answer["seed"],
            outputs={key: np.asarray(value) for key, value in answer["outputs"].items()},
            labels=tuple(answer["labels"]) if "labels" in answer else None,
            quantiles=tuple(answer["quantiles"]) if "quantiles" in answer else None,
        )

    def rank(
        self,
        name: str,
        inputs: Inputs,
        *,
        k: int = 10,
        score: str | None = None,
        ids: Sequence[str | int] | None = None,
        version: int | None = None,
        passes: int | None = None,
        seed: int | None = None,
    ) -> RankedRows:
        """The k rows of inputs [B, *F] to label next, best first. inputs: as in predict."""
        chosen = {"score": score, "ids": ids, "passes": passes, "seed": seed}
        answer = self._ask(
            "POST",
            _path(name, version, "rank"),
            {"inputs": _native(inputs), "k": k, **_given(chosen)},
        )
        return RankedRows(
            model=answer["model"],
            version=answer["version"],
            score=answer["score"],
            indices=np.asarray(answer["indices"], dtype=np.int64),
            scores=np.asarray(answer["scores"]),
            ids=tuple(answer["ids"]) if "ids" in answer else None,
        )

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self._answer(method, path, _json(body) if body is not None else None)
        kind = answer.headers.get("content-type", "")
        if answer.is_success and kind.startswith("application/json"):
            return dict(answer.json())
        if kind.startswith("application/problem+json"):
            problem = answer.json()
            raise ServerError(answer.status_code, problem["type"].rpartition(":")[2], problem["detail"])
        raise ServerError(
            answer.status_code,
            "http",
            f"{method} {answer.url} answered {answer.status_code} {answer.reason_phrase}; is it a mcdrop server?",
        )

    def _answer(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        try:
            return self._http.request(method, path, content=content, headers={"Content-Type": "application/json"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"no answer from {self._http.base_url}: {error}.") from error


def _native(inputs: Inputs) -> NDArray[Any] | dict[str, Any]:
    """Arrays as they are written to JSON: contiguous, and in this machine's byte order."""
    if isinstance(inputs, Mapping):
        return {name: _native(rows) for name, rows in inputs.items()}
    rows = np.ascontiguousarray(inputs)
    return rows.astype(rows.dtype.newbyteorder("="), copy=False)


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise InvalidInput(f"the request cannot be written as JSON: {error}.") from error


def _given(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were chosen; what is absent the server fills in."""
    return {key: value for key, value in chosen.items() if value is not None}


def _path(name: str, version: int | None, verb: str) -> str:
    pinned = f"/versions/{version}" if version is not None else ""
    return f"/v1/models/{name}{pinned}/{verb}"
