"""POST /v1/models/{name}/predict, for the newest version or a pinned one."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from mcdrop.api.v1.documentation import PREDICT_MEMBERS, PREDICT_RESPONSES, request_docs
from mcdrop.api.v1.predict.request import read_query, response_media_type
from mcdrop.api.v1.predict.response import encode, encode_lines, provenance_of
from mcdrop.api.v1.schemas import PredictRequest, PredictResponse
from mcdrop.http.media_types import JSON, NDJSON, NPZ
from mcdrop.http.paths import ModelName, ModelVersion
from mcdrop.inference.call import Call
from mcdrop.inference.query import Query
from mcdrop.inference.state import ServerState, State
from mcdrop.inference.stream import LineStream
from mcdrop.wire.offload import json_cost, offload

router = APIRouter(prefix="/v1/models", tags=["predict"])
_PREDICT: dict[str, Any] = {
    "response_model": PredictResponse,
    "responses": PREDICT_RESPONSES,
    "openapi_extra": request_docs(PredictRequest, PREDICT_MEMBERS),
}


@router.post("/{name}/predict", **_PREDICT)
async def predict(name: ModelName, request: Request, state: State) -> Response:
    """Estimate the predictive mean, variance and entropies of each row."""
    return await _predict(name, None, request, state)


@router.post("/{name}/versions/{version}/predict", **_PREDICT)
async def predict_version(name: ModelName, version: ModelVersion, request: Request, state: State) -> Response:
    """Predict with one version of a model."""
    return await _predict(name, version, request, state)


async def _predict(name: str, version: int | None, request: Request, state: ServerState) -> Response:
    async with await Call.of(state, request, name, version, "predict") as call:
        media_type = response_media_type(request, (JSON, NPZ, NDJSON))
        query = await read_query(call)
        provenance = provenance_of(query)
        if media_type == NDJSON:
            return await LineStream.of(call, _lines(call, query), provenance.headers)
        result = await call.compute(query)
        with call.phase("encode"):
            content = await offload(partial(encode, provenance, result.measures, media_type), json_cost(result.size))
        return Response(content, media_type=media_type)


async def _lines(call: Call, query: Query) -> AsyncGenerator[bytes, None]:
    """Yield the rows of a query as lines of JSON, a batch at a time."""
    async with aclosing(call.stream(query)) as parts:
        async for part in parts:
            with call.phase("encode"):
                lines = partial(encode_lines, part.start, part.result.measures)
                content = await offload(lines, json_cost(part.result.size))
            yield content
