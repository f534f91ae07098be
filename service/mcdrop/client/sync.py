"""The client that waits."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
import orjson

from mcdrop.client.errors import reaching
from mcdrop.client.requests import (
    MODELS,
    READY,
    Ask,
    Inputs,
    PredictSaid,
    RankSaid,
    model_ask,
    options,
    predict_ask,
    rank_ask,
    request_of,
    stream_ask,
)
from mcdrop.client.responses import (
    Lines,
    Prediction,
    RankedRows,
    Row,
    content_of,
    is_ready,
    is_streamed,
    prediction_of,
    ranking_of,
)
from mcdrop.client.retry import Patience, checked
from mcdrop.http.media_types import JSON, NDJSON


class Client:
    """Talks to one server. Use as a context manager, or call `close`.

    timeout_s: of each question, with its retries; the server is told. retries: how often to ask again where the server
    answers that it cannot now (429, 503); anything else is never asked twice. Every method raises ServerError or
    Unreachable.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3) -> None:
        self._url = url
        self._timeout_s, self._retries = checked(timeout_s, retries)
        self._http = httpx.Client(**options(url, api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Whether the server can be asked about models."""
        return is_ready(self._answer(READY, retries=0))

    def models(self) -> list[dict[str, Any]]:
        """Every version of every model: name, version, state, reason."""
        return list(orjson.loads(content_of(self._answer(MODELS), JSON))["models"])

    def model(self, name: str, version: int | None = None) -> dict[str, Any]:
        """What a caller needs to know of a model: of a version, or of the newest that can be asked."""
        return dict(orjson.loads(content_of(self._answer(model_ask(name, version)), JSON)))

    def predict(self, name: str, inputs: Inputs, **said: Unpack[PredictSaid]) -> Prediction:
        """The measures of each row of inputs [B, *F]: an array, or for a model of several inputs arrays by name."""
        return prediction_of(self._answer(predict_ask(name, inputs, said)))

    def stream(self, name: str, inputs: Inputs, **said: Unpack[PredictSaid]) -> Iterator[Row]:
        """As `predict`, row by row as they are computed: for questions that take long. Asks when the first is wanted.

        To stop early, close the iterator: the server computes no more.
        """
        response = self._answer(stream_ask(name, inputs, said), stream=True)
        try:
            with reaching(self._url):
                if not is_streamed(response):
                    response.read()
                    content_of(response, NDJSON)
                lines = Lines(response)
                for chunk in response.iter_bytes():
                    yield from lines.rows(chunk)
                lines.end()
        finally:
            response.close()

    def rank(self, name: str, inputs: Inputs, **said: Unpack[RankSaid]) -> RankedRows:
        """The rows of inputs [B, *F] to label next, best first. inputs: as in predict."""
        return ranking_of(self._answer(rank_ask(name, inputs, said)), said.get("ids"))

    def _answer(self, ask: Ask, *, stream: bool = False, retries: int | None = None) -> httpx.Response:
        patience = Patience(self._timeout_s, self._retries if retries is None else retries)
        while True:
            with reaching(self._url):
                response = self._http.send(request_of(self._http, ask, patience), stream=stream)
            pause = patience.pause_s(response)
            if pause is None:
                return response
            response.close()
            time.sleep(pause)
