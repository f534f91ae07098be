"""The client for asyncio. It shares requests and responses with the blocking client; only the waiting differs."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
import orjson

from mcdrop.client.errors import unreachable_errors
from mcdrop.client.requests import (
    MODELS,
    READY,
    ClientRequest,
    Inputs,
    PredictFields,
    RankFields,
    build_http_request,
    http_options,
    model_request,
    predict_request,
    rank_request,
    stream_request,
)
from mcdrop.client.responses import (
    Prediction,
    RankedRows,
    Row,
    RowStream,
    checked_content,
    is_ready,
    is_streamed,
    parse_prediction,
    parse_ranking,
)
from mcdrop.client.retry import RetryPolicy, check_retry_options
from mcdrop.http.media_types import JSON, NDJSON


class AsyncClient:
    """A client of one server for asyncio. Use it as an asynchronous context manager, or call `close`.

    Args:
        url: URL of the server.
        api_key: Key to send, if the server requires one.
        timeout_s: Seconds for each request with all its retries; the server is told.
        retries: How often to retry when the server cannot answer now (429, 503). Other errors are not retried.

    Raises:
        InvalidInput: `timeout_s` or `retries` is out of range.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3) -> None:
        self._url = url
        self._timeout_s, self._retries = check_retry_options(timeout_s, retries)
        self._http = httpx.AsyncClient(**http_options(url, api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Return whether the server can answer queries."""
        return is_ready(await self._answer(READY, retries=0))

    async def models(self) -> list[dict[str, Any]]:
        """List every version of every model.

        Returns:
            Name, version, state, and the reason if it is refused, of each.

        Raises:
            ServerError: The server refused the request or failed.
            Unreachable: No answer arrived.
        """
        return list(orjson.loads(checked_content(await self._answer(MODELS), JSON))["models"])

    async def model(self, name: str, version: int | None = None) -> dict[str, Any]:
        """Return the description of a model: inputs, labels, measures, an example.

        Args:
            name: Name of the model.
            version: Version; the newest that is ready by default.

        Returns:
            The description, as `GET /v1/models/{name}` returns it.

        Raises:
            ServerError: There is no such model, or the server failed.
            Unreachable: No answer arrived.
        """
        return dict(orjson.loads(checked_content(await self._answer(model_request(name, version)), JSON)))

    async def predict(self, name: str, inputs: Inputs, **fields: Unpack[PredictFields]) -> Prediction:
        """Return the measures of each row.

        Args:
            name: Name of the model.
            inputs: Rows [B, *F], or rows by name for a model with several inputs.
            **fields: Pass options, version, outputs, quantiles, samples, defer_above.

        Returns:
            The prediction.

        Raises:
            InvalidInput: The inputs are not arrays of numbers.
            ServerError: The server refused the request or failed.
            Unreachable: No answer arrived.
        """
        return parse_prediction(await self._answer(predict_request(name, inputs, fields)))

    async def stream(self, name: str, inputs: Inputs, **fields: Unpack[PredictFields]) -> AsyncIterator[Row]:
        """Yield the measures row by row, as they are computed.

        The request is sent when the first row is needed. To stop early, close the iterator
        (`contextlib.aclosing`); the server then stops computing.

        Args:
            name: Name of the model.
            inputs: Rows, as in `predict`.
            **fields: As in `predict`.

        Yields:
            Rows in order.

        Raises:
            InvalidInput: The inputs are not arrays of numbers.
            ServerError: The server refused the request or failed.
            Unreachable: No answer arrived, or it ended early.
        """
        response = await self._answer(stream_request(name, inputs, fields), stream=True)
        try:
            with unreachable_errors(self._url):
                if not is_streamed(response):
                    await response.aread()
                    checked_content(response, NDJSON)
                lines = RowStream(response)
                async for chunk in response.aiter_bytes():
                    for row in lines.rows(chunk):
                        yield row
                lines.end()
        finally:
            await response.aclose()

    async def rank(self, name: str, inputs: Inputs, **fields: Unpack[RankFields]) -> RankedRows:
        """Return the rows to label next, best first.

        Args:
            name: Name of the model.
            inputs: Rows of the pool, as in `predict`.
            **fields: Pass options, version, k, score, selector and their parameters (`RankFields`).

        Returns:
            The chosen rows.

        Raises:
            InvalidInput: The inputs are not arrays of numbers, or ids and exclusions do not fit them.
            ServerError: The server refused the request or failed.
            Unreachable: No answer arrived.
        """
        return parse_ranking(await self._answer(rank_request(name, inputs, fields)), fields.get("ids"))

    async def _answer(
        self, request: ClientRequest, *, stream: bool = False, retries: int | None = None
    ) -> httpx.Response:
        policy = RetryPolicy(self._timeout_s, self._retries if retries is None else retries)
        while True:
            with unreachable_errors(self._url):
                response = await self._http.send(build_http_request(self._http, request, policy), stream=stream)
            pause = policy.pause_s(response)
            if pause is None:
                return response
            await response.aclose()
            await asyncio.sleep(pause)
