"""/v2/repository: operators list versions, and load and unload models."""

from typing import Any, Literal, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from mcdrop.api.oip.requests import IndexRequest, LoadRequest, StrictBody, parse_oip_body
from mcdrop.api.oip.responses import IndexEntry
from mcdrop.http.body import read_body
from mcdrop.http.error_docs import BODY_ERRORS, MODEL_ERRORS, oip_error_docs
from mcdrop.http.openapi import inline_definitions
from mcdrop.http.paths import ModelName
from mcdrop.inference.catalogue import VersionState
from mcdrop.inference.state import ServerState, State
from mcdrop.wire.json import parse_json

B = TypeVar("B", bound=StrictBody)
router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"])

_STATES: dict[str, Literal["READY", "LOADING", "UNAVAILABLE"]] = {
    "ready": "READY",
    "loading": "LOADING",
    "refused": "UNAVAILABLE",
    "unloaded": "UNAVAILABLE",
}
_OF_INDEX = oip_error_docs(*BODY_ERRORS, "internal")
_OF_LOADING = oip_error_docs(*BODY_ERRORS, *MODEL_ERRORS)


def _documented(kind: type[StrictBody]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that may be missing."""
    return {"requestBody": {"content": {"application/json": {"schema": inline_definitions(kind.model_json_schema())}}}}


@router.post("/index", response_model=list[IndexEntry], responses=_OF_INDEX, openapi_extra=_documented(IndexRequest))
async def index(request: Request, state: State) -> list[IndexEntry]:
    """List every version of every model, newest first, with the reason if one is not in memory."""
    index_request = await _read(IndexRequest, request, state)
    states = await anyio.to_thread.run_sync(state.catalogue.states)
    return [_entry(one) for one in states if one.state == "ready" or not index_request.ready]


@router.post(
    "/models/{name}/load", response_class=Response, responses=_OF_LOADING, openapi_extra=_documented(LoadRequest)
)
async def load(name: ModelName, request: Request, state: State) -> Response:
    """Load a model: its newest valid version becomes current."""
    await _read(LoadRequest, request, state)
    await state.on_loader(state.catalogue.load, name)
    return Response()


@router.post(
    "/models/{name}/unload", response_class=Response, responses=_OF_LOADING, openapi_extra=_documented(LoadRequest)
)
async def unload(name: ModelName, request: Request, state: State) -> Response:
    """Unload a model, and wait for the requests that hold it."""
    await _read(LoadRequest, request, state)
    await state.on_loader(state.catalogue.unload, name, state.settings.drain_ms / 1000)
    return Response()


async def _read(kind: type[B], request: Request, state: ServerState) -> B:
    """Read and parse a body; a missing one counts as {}."""
    settings = state.settings
    body = await read_body(request, settings.max_body_bytes, settings.max_timeout_ms / 1000)
    return parse_oip_body(kind, parse_json(body) if body else {})


def _entry(state: VersionState) -> IndexEntry:
    reason = "it is not in memory." if state.state == "unloaded" else state.reason
    return IndexEntry(name=state.name, version=str(state.version), state=_STATES[state.state], reason=reason)
