"""POST /v1/models/{name}/predict and /rank, of the newest version or a pinned one."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

import torch
from fastapi import APIRouter, Request, Response

from dropout_core.acquire.scores import RANDOM
from dropout_core.acquire.scores import rank as rank_rows
from service.answers import lines, prediction, ranking, run_of
from service.call import SMALL_BODY_BYTES, Call
from service.forms import JSON, NDJSON, NPY, NPZ, form_of_answer, form_of_body
from service.framing import FASTER
from service.query import Query, score_of
from service.reading import Sent, predict_query, rank_query
from service.schemas.paths import Name, Version
from service.schemas.predicting import PREDICT_RESPONSES, RANK_RESPONSES, documented
from service.schemas.v1 import PredictRequest, PredictResponse, RankRequest, RankResponse
from service.state import Shared, State
from service.streaming import Streamed

T = TypeVar("T")
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


@router.post(
    "/{name}/rank", response_model=RankResponse, responses=RANK_RESPONSES, openapi_extra=documented(RankRequest)
)
async def rank(name: Name, request: Request, shared: Shared) -> Response:
    """The rows a human should label next, best first."""
    return await _rank(name, None, request, shared)


@router.post(
    "/{name}/versions/{version}/rank",
    response_model=RankResponse,
    responses=RANK_RESPONSES,
    openapi_extra=documented(RankRequest),
)
async def rank_version(name: Name, version: Version, request: Request, shared: Shared) -> Response:
    """Rank with one version."""
    return await _rank(name, version, request, shared)


async def _predict(name: str, version: int | None, request: Request, shared: State) -> Response:
    async with await Call.of(shared, request, name, version, "predict") as call:
        predictor = call.model.predictor
        form = _form_of_answer(request, (JSON, NPZ, NDJSON))
        query = await _decoded(call, lambda sent: predict_query(predictor, sent, shared.limits))
        run = run_of(predictor, query)
        if form == NDJSON:
            return await Streamed.of(call, _lines(call, query), run.headers)
        measures = await call.compute(query)
        numbers = sum(array.size for array in measures.values())
        return Response(await call.encode(numbers, lambda: prediction(run, measures, form)), media_type=form)


async def _rank(name: str, version: int | None, request: Request, shared: State) -> Response:
    async with await Call.of(shared, request, name, version, "rank") as call:
        predictor = call.model.predictor
        form = _form_of_answer(request, (JSON, NPZ))
        asked, query = await _decoded(call, lambda sent: rank_query(predictor, sent, shared.limits))
        score = score_of(predictor, asked.score)
        measures = {} if score == RANDOM else await call.compute(query)
        found = rank_rows(score, query.num_rows, asked.k, query.plan.seed, lambda: torch.from_numpy(measures[score]))
        indices = found.indices.tolist()
        ranked = {
            **({"passes": 0} if score == RANDOM else {}),
            "score": score,
            **({"reduction": found.reduction} if found.reduction else {}),
            "indices": indices,
            "scores": found.scores.tolist(),
            **({"ids": [asked.ids[index] for index in indices]} if asked.ids is not None else {}),
        }
        run = run_of(predictor, query)
        return Response(await call.encode(len(indices), lambda: ranking(run, ranked, form)), media_type=form)


async def _decoded(call: Call, read: Callable[[Sent], T]) -> T:
    """What is read of a request in whichever form its body has."""
    request, max_bytes = call.request, call.shared.settings.max_body_bytes
    form = form_of_body(request.headers.get("content-type", ""))
    query = request.query_params.multi_items()

    def weight(body: bytes) -> int:
        if form == NPZ:  # however short it is: its length says nothing of what it inflates to
            return SMALL_BODY_BYTES + 1
        return len(body) // FASTER if form == NPY else len(body)

    return await call.decode(lambda body: read(Sent(body, form, query, max_bytes, call.shared.parse_json)), weight)


async def _lines(call: Call, query: Query) -> AsyncGenerator[bytes, None]:
    """Rows as lines of JSON, part by part."""
    async with aclosing(call.parts(query)) as parts:
        async for part in parts:
            start, measures = part.start, part.result.measures
            numbers = sum(array.size for array in measures.values())
            yield await call.encode(numbers, lambda: lines(start, measures))  # noqa: B023 - called before the next


def _form_of_answer(request: Request, offered: tuple[str, ...]) -> str:
    return form_of_answer(",".join(request.headers.getlist("accept")), offered)
