"""/v2/repository, for operators: which versions there are, and which models are in service."""

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
    """What OpenAPI says of a body that may be missing."""
    return {"requestBody": {"content": {"application/json": {"schema": inline_definitions(kind.model_json_schema())}}}}


@router.post("/index", response_model=list[IndexEntry], responses=_OF_INDEX, openapi_extra=_documented(IndexRequest))
async def index(request: Request, shared: State) -> list[IndexEntry]:
    """Every version of every model, newest first, with the reason where one is not in memory."""
    asked = await _asked(IndexRequest, request, shared)
    states = await anyio.to_thread.run_sync(shared.catalogue.states)
    return [_entry(state) for state in states if state.state == "ready" or not asked.ready]


@router.post(
    "/models/{name}/load", response_class=Response, responses=_OF_LOADING, openapi_extra=_documented(LoadRequest)
)
async def load(name: ModelName, request: Request, shared: State) -> Response:
    """Bring a model into service, or its newest good version in the place of the one that is."""
    await _asked(LoadRequest, request, shared)
    await shared.loading(shared.catalogue.load, name)
    return Response()


@router.post(
    "/models/{name}/unload", response_class=Response, responses=_OF_LOADING, openapi_extra=_documented(LoadRequest)
)
async def unload(name: ModelName, request: Request, shared: State) -> Response:
    """Take a model out of service, when the requests that hold it have ended."""
    await _asked(LoadRequest, request, shared)
    await shared.loading(shared.catalogue.unload, name, shared.settings.drain_ms / 1000)
    return Response()


async def _asked(kind: type[B], request: Request, shared: ServerState) -> B:
    """What a body asks; none asks for nothing."""
    settings = shared.settings
    body = await read_body(request, settings.max_body_bytes, settings.max_timeout_ms / 1000)
    return parse_oip_body(kind, parse_json(body) if body else {})


def _entry(state: VersionState) -> IndexEntry:
    reason = "it is not in memory." if state.state == "unloaded" else state.reason
    return IndexEntry(name=state.name, version=str(state.version), state=_STATES[state.state], reason=reason)
