"""/v2, the Open Inference Protocol: health, what there is, and inference, of the newest version or a pinned one."""

from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from mcdrop.api.oip.decode import question_of
from mcdrop.api.oip.encode import encode_response, encoding_cost
from mcdrop.api.oip.metadata import model_config, model_metadata, server_metadata
from mcdrop.api.oip.requests import InferRequest
from mcdrop.api.oip.responses import (
    InferResponse,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelNames,
    ModelNotReady,
    ModelReady,
    ModelStatistics,
    NotReady,
    Ready,
    ServerMetadata,
)
from mcdrop.api.oip.statistics import statistics_response
from mcdrop.http.error_docs import COMPUTE_ERRORS, MODEL_ERRORS, Responses, oip_error_docs
from mcdrop.http.openapi import BYTES, COMPRESSED, TIMEOUT, inline_definitions
from mcdrop.http.paths import ModelName, ModelVersion
from mcdrop.inference.call import Call
from mcdrop.inference.state import ServerState, State
from mcdrop.wire.oip_frame import LENGTH_HEADER, Frame
from mcdrop_models.errors import UnknownModel

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

_INTERNAL = oip_error_docs("internal")
_OF_MODEL = oip_error_docs(*MODEL_ERRORS)
_UNREADY: Responses = {503: {"model": NotReady, "description": "No model can be asked, and why."}, **_INTERNAL}
_DEAD: Responses = {503: {"model": Live, "description": "What computes has died; restart the server."}, **_INTERNAL}
_MODEL_UNREADY: Responses = {
    503: {"model": ModelNotReady, "description": "It cannot be asked, and why."},
    **oip_error_docs("unknown-model", "internal"),
}
_BYTES: dict[str, Any] = {"application/octet-stream": {"schema": BYTES}}
_LENGTH = {
    "description": "Where the JSON ends and tensors as bytes begin.",
    "schema": {"type": "integer", "minimum": 1},
}
_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": {200: {"content": _BYTES, "headers": {LENGTH_HEADER: _LENGTH}}, **oip_error_docs(*COMPUTE_ERRORS)},
    "openapi_extra": {
        "parameters": [
            {
                "name": LENGTH_HEADER,
                "in": "header",
                "description": "Where the JSON ends and tensors as bytes begin; 0: there is no JSON.",
                "schema": {"type": "integer", "minimum": 0},
            },
            TIMEOUT,
        ],
        "requestBody": {
            "required": True,
            "description": "JSON; or JSON and behind it the tensors that have a binary_data_size, in their order. "
            f"{COMPRESSED}",
            "content": {"application/json": {"schema": inline_definitions(InferRequest.model_json_schema())}, **_BYTES},
        },
    },
}


# First, because it is asked most often and routes are tried in their order.
@router.post("/models/{name}/infer", **_INFER)
async def infer(name: ModelName, request: Request, shared: State) -> Response:
    """Predictive mean, variance and entropies of each row."""
    return await _infer(name, None, request, shared)


@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer_version(name: ModelName, version: ModelVersion, request: Request, shared: State) -> Response:
    """Infer with one version."""
    return await _infer(name, version, request, shared)


@router.get("/", include_in_schema=False)
@router.get("", responses=_INTERNAL)
async def server() -> ServerMetadata:
    """What this server is, and which extensions of the protocol it speaks."""
    return server_metadata()


@router.get("/health/live", responses=_DEAD)
async def live(response: Response, shared: State) -> Live:
    """The process runs, and what computes in it."""
    response.status_code = 200 if shared.batcher.alive else 503
    return Live(live=shared.batcher.alive)


@router.get("/health/ready", response_model=Ready, responses=_UNREADY)
async def ready(shared: State) -> Response:
    """At least one model can be asked."""
    return _readiness({}, shared.unready)


@router.get("/models", responses=_INTERNAL)
async def names(shared: State) -> ModelNames:
    """The models that are in memory."""
    return ModelNames(models=sorted({model.name for model in shared.catalogue.loaded()}))


@router.get("/models/stats", responses=_INTERNAL)
async def statistics(shared: State) -> ModelStatistics:
    """What the requests took of every model that is in memory."""
    return _statistics(shared, None, None)


@router.get("/models/{name}", responses=_OF_MODEL)
async def metadata(name: ModelName, shared: State) -> ModelMetadata:
    """The inputs and outputs of a model."""
    return await _metadata(name, None, shared)


@router.get("/models/{name}/versions/{version}", responses=_OF_MODEL)
async def metadata_of_version(name: ModelName, version: ModelVersion, shared: State) -> ModelMetadata:
    """The inputs and outputs of one version."""
    return await _metadata(name, version, shared)


@router.get("/models/{name}/ready", response_model=ModelReady, responses=_MODEL_UNREADY)
async def model_ready(name: ModelName, shared: State) -> Response:
    """Whether a model is in memory."""
    return await _model_ready(name, None, shared)


@router.get("/models/{name}/versions/{version}/ready", response_model=ModelReady, responses=_MODEL_UNREADY)
async def version_ready(name: ModelName, version: ModelVersion, shared: State) -> Response:
    """Whether one version is in memory."""
    return await _model_ready(name, version, shared)


@router.get("/models/{name}/config", responses=_OF_MODEL)
async def config(name: ModelName, shared: State) -> ModelConfig:
    """A model as Triton's tools want to know it."""
    return model_config((await shared.model(name, None)).predictor)


@router.get("/models/{name}/versions/{version}/config", responses=_OF_MODEL)
async def config_of_version(name: ModelName, version: ModelVersion, shared: State) -> ModelConfig:
    """One version as Triton's tools want to know it."""
    return model_config((await shared.model(name, version)).predictor)


@router.get("/models/{name}/stats", responses=_OF_MODEL)
async def model_statistics(name: ModelName, shared: State) -> ModelStatistics:
    """What the requests took of the versions of a model that are in memory."""
    await shared.model(name, None)
    return _statistics(shared, name, None)


@router.get("/models/{name}/versions/{version}/stats", responses=_OF_MODEL)
async def version_statistics(name: ModelName, version: ModelVersion, shared: State) -> ModelStatistics:
    """What the requests took of one version."""
    await shared.model(name, version)
    return _statistics(shared, name, version)


async def _infer(name: str, version: int | None, request: Request, shared: ServerState) -> Response:
    async with await Call.of(shared, request, name, version, "infer") as call:
        predictor, json_length = call.model.predictor, request.headers.get(LENGTH_HEADER)
        question = await call.decode(
            lambda body: question_of(predictor, Frame.of(body, json_length), shared.limits, shared.parse_json),
            lambda body: Frame.of(body, json_length).weight,
        )
        if question.timeout_s is not None:
            call.within(question.timeout_s)
        measures = await call.compute(question.query)
        answer = await call.encode(
            encoding_cost(question, measures), partial(encode_response, predictor, question, measures)
        )
        if answer.json_length is None:
            return Response(answer.content, media_type="application/json")
        headers = {LENGTH_HEADER: str(answer.json_length)}
        return Response(answer.content, headers=headers, media_type="application/octet-stream")


async def _metadata(name: str, version: int | None, shared: ServerState) -> ModelMetadata:
    model = await shared.model(name, version)
    versions = [model.version] if version is not None else shared.catalogue.repository.versions(name)
    return model_metadata(model.predictor, versions)


async def _model_ready(name: str, version: int | None, shared: ServerState) -> Response:
    """Nothing is loaded for it: who watches many models would push out of memory those that are used."""
    if any(_is(model.name, model.version, name, version) for model in shared.catalogue.loaded()):
        return _readiness({"name": name}, "")
    states = await anyio.to_thread.run_sync(shared.catalogue.states)
    found = [state for state in states if _is(state.name, state.version, name, version)]
    if not found:
        of_version = "" if version is None else f" of version {version}"
        raise UnknownModel(f"there is no model {name!r}{of_version}.")
    return _readiness({"name": name}, found[0].reason or f"{name}/{found[0].version} is {found[0].state}.")


def _is(name: str, version: int, wanted: str, wanted_version: int | None) -> bool:
    return name == wanted and wanted_version in {None, version}


def _readiness(document: dict[str, Any], against: str) -> Response:
    """An answer about being ready, in the words of each client: some read its status, some its body."""
    if not against:
        return JSONResponse({**document, "ready": True})
    return JSONResponse({**document, "ready": False, "error": against}, 503)


def _statistics(shared: ServerState, name: str | None, version: int | None) -> ModelStatistics:
    loaded = [(model.name, model.version) for model in shared.catalogue.loaded()]
    wanted = [key for key in loaded if name is None or _is(*key, name, version)]
    return ModelStatistics(model_stats=[statistics_response(key, shared.metrics.statistics(*key)) for key in wanted])
