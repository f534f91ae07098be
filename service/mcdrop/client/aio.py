"""The client of asyncio. What it sends and reads is the other one's: only the waiting differs."""

import asyncio
from collections.abc import AsyncIterator
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


class AsyncClient:
    """Talks to one server, as `mcdrop.client.Client` does. Use as an asynchronous context manager, or call `close`."""

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3) -> None:
        self._url = url
        self._timeout_s, self._retries = checked(timeout_s, retries)
        self._http = httpx.AsyncClient(**options(url, api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether the server can be asked about models."""
        return is_ready(await self._answer(READY, retries=0))

    async def models(self) -> list[dict[str, Any]]:
        """Every version of every model: name, version, state, reason."""
        return list(orjson.loads(content_of(await self._answer(MODELS), JSON))["models"])

    async def model(self, name: str, version: int | None = None) -> dict[str, Any]:
        """What a caller needs to know of a model: of a version, or of the newest that can be asked."""
        return dict(orjson.loads(content_of(await self._answer(model_ask(name, version)), JSON)))

    async def predict(self, name: str, inputs: Inputs, **said: Unpack[PredictSaid]) -> Prediction:
        """The measures of each row of inputs [B, *F]: an array, or for a model of several inputs arrays by name."""
        return prediction_of(await self._answer(predict_ask(name, inputs, said)))

    async def stream(self, name: str, inputs: Inputs, **said: Unpack[PredictSaid]) -> AsyncIterator[Row]:
        """As `predict`, row by row as they are computed. To stop early, close the iterator (contextlib.aclosing)."""
        response = await self._answer(stream_ask(name, inputs, said), stream=True)
        try:
            with reaching(self._url):
                if not is_streamed(response):
                    await response.aread()
                    content_of(response, NDJSON)
                lines = Lines(response)
                async for chunk in response.aiter_bytes():
                    for row in lines.rows(chunk):
                        yield row
                lines.end()
        finally:
            await response.aclose()

    async def rank(self, name: str, inputs: Inputs, **said: Unpack[RankSaid]) -> RankedRows:
        """The rows of inputs [B, *F] to label next, best first. inputs: as in predict."""
        return ranking_of(await self._answer(rank_ask(name, inputs, said)), said.get("ids"))

    async def _answer(self, ask: Ask, *, stream: bool = False, retries: int | None = None) -> httpx.Response:
        patience = Patience(self._timeout_s, self._retries if retries is None else retries)
        while True:
            with reaching(self._url):
                response = await self._http.send(request_of(self._http, ask, patience), stream=stream)
            pause = patience.pause_s(response)
            if pause is None:
                return response
            await response.aclose()
            await asyncio.sleep(pause)
