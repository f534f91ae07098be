"""/v2, the Open Inference Protocol: health, metadata, statistics and inference."""

from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from mcdrop.api.oip.decode import read_query
from mcdrop.api.oip.encode import encode, encoding_cost
from mcdrop.api.oip.metadata import model_config, model_metadata, server_metadata
from mcdrop.api.oip.requests import InferRequest
from mcdrop.api.oip.responses import (
    InferResponse,
    LiveResponse,
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
from mcdrop.wire.offload import offload
from mcdrop.wire.oip_frame import LENGTH_HEADER
from mcdrop_models.errors import UnknownModel

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

_INTERNAL = oip_error_docs("internal")
_OF_MODEL = oip_error_docs(*MODEL_ERRORS)
_UNREADY: Responses = {503: {"model": NotReady, "description": "No model can answer, and why."}, **_INTERNAL}
_DEAD: Responses = {
    503: {"model": LiveResponse, "description": "The compute thread died; restart the server."},
    **_INTERNAL,
}
_MODEL_UNREADY: Responses = {
    503: {"model": ModelNotReady, "description": "The model cannot answer, and why."},
    **oip_error_docs("unknown-model", "internal"),
}
_BYTES: dict[str, Any] = {"application/octet-stream": {"schema": BYTES}}
_LENGTH = {
    "description": "Length of the JSON in bytes; the tensors follow it.",
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
                "description": "Length of the JSON in bytes; tensors as bytes follow it. 0 means no JSON.",
                "schema": {"type": "integer", "minimum": 0},
            },
            TIMEOUT,
        ],
        "requestBody": {
            "required": True,
            "description": "JSON, or JSON followed by the tensors that have a binary_data_size, in their order. "
            f"{COMPRESSED}",
            "content": {"application/json": {"schema": inline_definitions(InferRequest.model_json_schema())}, **_BYTES},
        },
    },
}


# First, because routes are tried in order and this one is called most often.
@router.post("/models/{name}/infer", **_INFER)
async def infer(name: ModelName, request: Request, state: State) -> Response:
    """Estimate the predictive mean, variance and entropies of each row."""
    return await _infer(name, None, request, state)


@router.post("/models/{name}/versions/{version}/infer", **_INFER)
async def infer_version(name: ModelName, version: ModelVersion, request: Request, state: State) -> Response:
    """Infer with one version of a model."""
    return await _infer(name, version, request, state)


@router.get("/", include_in_schema=False)
@router.get("", responses=_INTERNAL)
async def server() -> ServerMetadata:
    """Describe the server and the extensions of the protocol that it supports."""
    return server_metadata()


@router.get("/health/live", responses=_DEAD)
async def live(response: Response, state: State) -> LiveResponse:
    """Report whether the process and its compute thread run."""
    response.status_code = 200 if state.batcher.alive else 503
    return LiveResponse(live=state.batcher.alive)


@router.get("/health/ready", response_model=Ready, responses=_UNREADY)
async def ready(state: State) -> Response:
    """Report whether at least one model can answer."""
    return _readiness({}, state.unready)


@router.get("/models", responses=_INTERNAL)
async def names(state: State) -> ModelNames:
    """List the models in memory."""
    return ModelNames(models=sorted({model.name for model in state.catalogue.loaded()}))


@router.get("/models/stats", responses=_INTERNAL)
async def statistics(state: State) -> ModelStatistics:
    """Return the statistics of every model in memory."""
    return _statistics(state, None, None)


@router.get("/models/{name}", responses=_OF_MODEL)
async def metadata(name: ModelName, state: State) -> ModelMetadata:
    """Describe the inputs and outputs of a model."""
    return await _metadata(name, None, state)


@router.get("/models/{name}/versions/{version}", responses=_OF_MODEL)
async def metadata_of_version(name: ModelName, version: ModelVersion, state: State) -> ModelMetadata:
    """Describe the inputs and outputs of one version."""
    return await _metadata(name, version, state)


@router.get("/models/{name}/ready", response_model=ModelReady, responses=_MODEL_UNREADY)
async def model_ready(name: ModelName, state: State) -> Response:
    """Report whether a model is in memory."""
    return await _model_ready(name, None, state)


@router.get("/models/{name}/versions/{version}/ready", response_model=ModelReady, responses=_MODEL_UNREADY)
async def version_ready(name: ModelName, version: ModelVersion, state: State) -> Response:
    """Report whether one version is in memory."""
    return await _model_ready(name, version, state)


@router.get("/models/{name}/config", responses=_OF_MODEL)
async def config(name: ModelName, state: State) -> ModelConfig:
    """Return the configuration of a model, as Triton describes it."""
    return model_config((await state.model(name, None)).predictor)


@router.get("/models/{name}/versions/{version}/config", responses=_OF_MODEL)
async def config_of_version(name: ModelName, version: ModelVersion, state: State) -> ModelConfig:
    """Return the configuration of one version, as Triton describes it."""
    return model_config((await state.model(name, version)).predictor)


@router.get("/models/{name}/stats", responses=_OF_MODEL)
async def model_statistics(name: ModelName, state: State) -> ModelStatistics:
    """Return the statistics of the versions of a model that are in memory."""
    await state.model(name, None)
    return _statistics(state, name, None)


@router.get("/models/{name}/versions/{version}/stats", responses=_OF_MODEL)
async def version_statistics(name: ModelName, version: ModelVersion, state: State) -> ModelStatistics:
    """Return the statistics of one version."""
    await state.model(name, version)
    return _statistics(state, name, version)


async def _infer(name: str, version: int | None, request: Request, state: ServerState) -> Response:
    async with await Call.of(state, request, name, version, "infer") as call:
        query, options = await read_query(call)
        if options.timeout_s is not None:
            call.limit_time(options.timeout_s)
        measures = (await call.compute(query)).measures
        with call.phase("encode"):
            encoded = await offload(partial(encode, query, options, measures), encoding_cost(options, measures))
        if encoded.json_length is None:
            return Response(encoded.content, media_type="application/json")
        headers = {LENGTH_HEADER: str(encoded.json_length)}
        return Response(encoded.content, headers=headers, media_type="application/octet-stream")


async def _metadata(name: str, version: int | None, state: ServerState) -> ModelMetadata:
    model = await state.model(name, version)
    versions = [model.version] if version is not None else state.catalogue.repository.versions(name)
    return model_metadata(model.predictor, versions)


async def _model_ready(name: str, version: int | None, state: ServerState) -> Response:
    """Report readiness without loading anything: a monitor of many models would push out those that are used."""
    if any(_matches(model.name, model.version, name, version) for model in state.catalogue.loaded()):
        return _readiness({"name": name}, "")
    states = await anyio.to_thread.run_sync(state.catalogue.states)
    found = [one for one in states if _matches(one.name, one.version, name, version)]
    if not found:
        of_version = "" if version is None else f" of version {version}"
        raise UnknownModel(f"there is no model {name!r}{of_version}.")
    return _readiness({"name": name}, found[0].reason or f"{name}/{found[0].version} is {found[0].state}.")


def _matches(name: str, version: int, wanted: str, wanted_version: int | None) -> bool:
    return name == wanted and wanted_version in {None, version}


def _readiness(document: dict[str, Any], reason: str) -> Response:
    """Return a readiness response. Some clients read its status and some its body."""
    if not reason:
        return JSONResponse({**document, "ready": True})
    return JSONResponse({**document, "ready": False, "error": reason}, 503)


def _statistics(state: ServerState, name: str | None, version: int | None) -> ModelStatistics:
    loaded = [(model.name, model.version) for model in state.catalogue.loaded()]
    wanted = [key for key in loaded if name is None or _matches(*key, name, version)]
    return ModelStatistics(model_stats=[statistics_response(key, state.metrics.statistics(*key)) for key in wanted])
