"""POST /v1/models/{name}/predict, of the newest version or a pinned one."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from service.answers import lines, prediction, run_of
from service.call import Call
from service.decoding import decoded, form_wanted
from service.forms import JSON, NDJSON, NPZ
from service.query import Query
from service.reading import predict_query
from service.schemas.paths import Name, Version
from service.schemas.predicting import PREDICT_RESPONSES, documented
from service.schemas.v1 import PredictRequest, PredictResponse
from service.state import Shared, State
from service.streaming import Streamed

router = APIRouter(prefix="/v1/models", tags=["predict"])


@router.post(
    "/{name}/predict",
    response_model=PredictResponse,
    responses=PREDICT_RESPONSES,
    openapi_extra=documented(PredictRequest),
)
async def predict(name: Name, request: Request, shared: Shared) -> Response:
    """Predictive mean, variance and entropies of each row."""
    return await _predict(name, None, request, shared)


@router.post(
    "/{name}/versions/{version}/predict",
    response_model=PredictResponse,
    responses=PREDICT_RESPONSES,
    openapi_extra=documented(PredictRequest),
)
async def predict_version(name: Name, version: Version, request: Request, shared: Shared) -> Response:
    """Predict with one version."""
    return await _predict(name, version, request, shared)


async def _predict(name: str, version: int | None, request: Request, shared: State) -> Response:
    async with await Call.of(shared, request, name, version, "predict") as call:
        predictor = call.model.predictor
        form = form_wanted(request, (JSON, NPZ, NDJSON))
        query = await decoded(call, lambda sent: predict_query(predictor, sent, shared.limits))
        run = run_of(predictor, query)
        if form == NDJSON:
            return await Streamed.of(call, _lines(call, query), run.headers)
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
