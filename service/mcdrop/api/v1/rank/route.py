"""POST /v1/models/{name}/rank, of the newest version or a pinned one."""

from functools import partial

from fastapi import APIRouter, Request, Response

from mcdrop.api.v1.documentation import RANK_MEMBERS, RANK_RESPONSES, request_docs
from mcdrop.api.v1.predict.request import response_media_type
from mcdrop.api.v1.rank.choose import ranking_of
from mcdrop.api.v1.rank.request import read_rank_query
from mcdrop.api.v1.rank.response import ranking
from mcdrop.api.v1.rank.schemas import RankRequest, RankResponse
from mcdrop.http.media_types import JSON, NPZ
from mcdrop.http.paths import ModelName, ModelVersion
from mcdrop.inference.call import Call
from mcdrop.inference.state import ServerState, State
from mcdrop.wire.offload import json_cost, offload

router = APIRouter(prefix="/v1/models", tags=["predict"])


@router.post(
    "/{name}/rank",
    response_model=RankResponse,
    responses=RANK_RESPONSES,
    openapi_extra=request_docs(RankRequest, RANK_MEMBERS),
)
async def rank(name: ModelName, request: Request, state: State) -> Response:
    """The rows of a pool that a human should label next, in the order they are picked."""
    return await _rank(name, None, request, state)


@router.post(
    "/{name}/versions/{version}/rank",
    response_model=RankResponse,
    responses=RANK_RESPONSES,
    openapi_extra=request_docs(RankRequest, RANK_MEMBERS),
)
async def rank_version(name: ModelName, version: ModelVersion, request: Request, state: State) -> Response:
    """Rank with one version."""
    return await _rank(name, version, request, state)


async def _rank(name: str, version: int | None, request: Request, state: ServerState) -> Response:
    async with await Call.of(state, request, name, version, "rank") as call:
        predictor = call.model.predictor
        form = response_media_type(request, (JSON, NPZ))
        question = await read_rank_query(call)
        found = await ranking_of(call, question)
        numbers = len(found.indices) * (3 + len(found.parts))
        with call.phase("encode"):
            content = await offload(partial(ranking, predictor, question, found, form), json_cost(numbers))
        return Response(content, media_type=form)
