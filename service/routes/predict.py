"""POST /v1/models/{name}/predict and /rank, of the newest version or a pinned one."""

from collections.abc import Callable
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from dropout_core.acquire.scores import RANDOM
from dropout_core.errors import InvalidInput
from models.predictor import Predictor
from service.codec import parse_json, read_body, to_inputs, to_json
from service.query import Asked, Query, draw_seed, make_query, run_predict, run_rank
from service.schemas.v1 import PredictRequest, PredictResponse, Problem, RankRequest, RankResponse, parse
from service.state import SMALL_BODY_BYTES, Shared, State

T = TypeVar("T")

router = APIRouter(prefix="/v1/models", tags=["predict"])

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
    for status, text in {
        400: "The body is not JSON",
        401: "A key is required",
        404: "There is no such model",
        413: "The body is too large",
        422: "The request does not fit",
        500: "The network answered NaN or infinity, or something failed",
        503: "The model cannot be served",
    }.items()
}


def _documented(body: type[PredictRequest] | type[RankRequest]) -> dict[str, Any]:
    """What OpenAPI says of a body that is read by hand."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body.model_json_schema()}},
        }
    }


@router.post(
    "/{name}/predict",
    response_model=PredictResponse,
    responses=_PROBLEMS,
    openapi_extra=_documented(PredictRequest),
)
async def predict(name: str, request: Request, shared: Shared) -> Response:
    """Predictive mean, variance and entropies of each row."""
    return await _predict(name, None, request, shared)


@router.post(
    "/{name}/versions/{version}/predict",
    response_model=PredictResponse,
    responses=_PROBLEMS,
    openapi_extra=_documented(PredictRequest),
)
async def predict_version(name: str, version: int, request: Request, shared: Shared) -> Response:
    """Predict with one version."""
    return await _predict(name, version, request, shared)


@router.post("/{name}/rank", response_model=RankResponse, responses=_PROBLEMS, openapi_extra=_documented(RankRequest))
async def rank(name: str, request: Request, shared: Shared) -> Response:
    """The rows a human should label next, best first."""
    return await _rank(name, None, request, shared)


@router.post(
    "/{name}/versions/{version}/rank",
    response_model=RankResponse,
    responses=_PROBLEMS,
    openapi_extra=_documented(RankRequest),
)
async def rank_version(name: str, version: int, request: Request, shared: Shared) -> Response:
    """Rank with one version."""
    return await _rank(name, version, request, shared)


async def _predict(name: str, version: int | None, request: Request, shared: State) -> Response:
    predictor = await shared.predictor(name, version)
    body = await read_body(request, shared.settings.max_body_bytes)
    query = await _aside(body, lambda: predict_query(predictor, body, shared))
    answer = await shared.compute.run(lambda: run_predict(predictor, query))
    manifest = predictor.manifest
    labels = {"labels": manifest.labels} if manifest.labels else {}
    levels = {"quantiles": query.quantiles} if query.quantiles else {}
    document = {**_run_of(predictor, query), **labels, **levels, "outputs": answer}
    content = await anyio.to_thread.run_sync(to_json, document)
    return Response(content, media_type="application/json")


async def _rank(name: str, version: int | None, request: Request, shared: State) -> Response:
    predictor = await shared.predictor(name, version)
    body = await read_body(request, shared.settings.max_body_bytes)
    asked, query = await _aside(body, lambda: rank_query(predictor, body, shared))
    score, ranking = await shared.compute.run(lambda: run_rank(predictor, query, asked.score, asked.k))
    indices = ranking.indices.tolist()
    document = {
        **_run_of(predictor, query),
        "score": score,
        **({"reduction": ranking.reduction} if ranking.reduction else {}),
        "indices": indices,
        "scores": ranking.scores.tolist(),
        **({"ids": [asked.ids[index] for index in indices]} if asked.ids is not None else {}),
    }
    if score == RANDOM:
        document["passes"] = 0
    return Response(to_json(document), media_type="application/json")


def predict_query(predictor: Predictor, body: bytes, shared: State) -> Query:
    """A checked query from the bytes of a predict request."""
    asked = parse(PredictRequest, parse_json(body))
    return make_query(
        predictor,
        to_inputs(asked.inputs, predictor.manifest),
        shared.limits,
        asked=_asked(asked),
        outputs=asked.outputs,
        quantiles=asked.quantiles,
        samples=asked.samples,
    )


def rank_query(predictor: Predictor, body: bytes, shared: State) -> tuple[RankRequest, Query]:
    """A checked query from the bytes of a rank request."""
    asked = parse(RankRequest, parse_json(body))
    inputs = to_inputs(asked.inputs, predictor.manifest)
    query = make_query(predictor, inputs, shared.limits, asked=_asked(asked))
    rows = query.num_rows
    if asked.ids is not None and len(asked.ids) != rows:
        raise InvalidInput(f"there are {len(asked.ids)} ids and {rows} rows; send one id for each row, or none.")
    return asked, query


def _asked(body: PredictRequest | RankRequest) -> Asked:
    """What a request says of the passes. An absent seed is the bundle's own; a null that was sent draws one."""
    drawn = body.seed is None and "seed" in body.model_fields_set
    return Asked(
        body.passes,
        draw_seed() if drawn else body.seed,
        body.sampling,
        body.masks,
        body.branches,
        body.tolerance,
        body.min_passes,
    )


def _run_of(predictor: Predictor, query: Query) -> dict[str, Any]:
    manifest = predictor.manifest
    return {
        "model": manifest.name,
        "version": predictor.version,
        "passes": query.plan.passes,
        "seed": query.plan.seed,
        "sampling": query.plan.scheme.sampling,
        "masks": query.plan.scheme.masks,
        "branches": query.plan.scheme.branches,
        "noise": manifest.noise,
    }


async def _aside(body: bytes, work: Callable[[], T]) -> T:
    """Do some work on a body on the event loop when it is small, in a thread otherwise."""
    return work() if len(body) <= SMALL_BODY_BYTES else await anyio.to_thread.run_sync(work)
