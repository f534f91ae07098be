"""POST /v1/models/{name}/predict, of the newest version or a pinned one."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from mcdrop.api.v1.documentation import PREDICT_RESPONSES, request_docs
from mcdrop.api.v1.predict.request import decoded, predict_query, response_media_type
from mcdrop.api.v1.predict.response import lines, prediction, provenance_of
from mcdrop.api.v1.schemas import PredictRequest, PredictResponse
from mcdrop.http.media_types import JSON, NDJSON, NPZ
from mcdrop.http.paths import ModelName, ModelVersion
from mcdrop.inference.call import Call
from mcdrop.inference.query import Query
from mcdrop.inference.state import ServerState, State
from mcdrop.inference.stream import LineStream

router = APIRouter(prefix="/v1/models", tags=["predict"])


@router.post(
    "/{name}/predict",
    response_model=PredictResponse,
    responses=PREDICT_RESPONSES,
    openapi_extra=request_docs(PredictRequest),
)
async def predict(name: ModelName, request: Request, shared: State) -> Response:
    """Predictive mean, variance and entropies of each row."""
    return await _predict(name, None, request, shared)


@router.post(
    "/{name}/versions/{version}/predict",
    response_model=PredictResponse,
    responses=PREDICT_RESPONSES,
    openapi_extra=request_docs(PredictRequest),
)
async def predict_version(name: ModelName, version: ModelVersion, request: Request, shared: State) -> Response:
    """Predict with one version."""
    return await _predict(name, version, request, shared)


async def _predict(name: str, version: int | None, request: Request, shared: ServerState) -> Response:
    async with await Call.of(shared, request, name, version, "predict") as call:
        predictor = call.model.predictor
        form = response_media_type(request, (JSON, NPZ, NDJSON))
        query = await decoded(call, lambda sent: predict_query(predictor, sent, shared.limits))
        run = provenance_of(predictor, query)
        if form == NDJSON:
            return await LineStream.of(call, _lines(call, query), run.headers)
        measures = await call.compute(query)
        numbers = sum(array.size for array in measures.values())
        return Response(await call.encode(numbers, lambda: prediction(run, measures, form)), media_type=form)


async def _lines(call: Call, query: Query) -> AsyncGenerator[bytes, None]:
    """Rows as lines of JSON, part by part."""
    async with aclosing(call.parts(query)) as parts:
        async for part in parts:
            start, measures = part.start, part.result.measures
            numbers = sum(array.size for array in measures.values())
            yield await call.encode(numbers, lambda: lines(start, measures))  # noqa: B023 - called before the next
