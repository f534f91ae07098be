"""Liveness and readiness of the server."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from mcdrop.http.error_docs import problem_docs
from mcdrop.inference.state import State


class Liveness(BaseModel):
    """Whether the process and its compute thread run."""

    live: bool


class Readiness(BaseModel):
    """At least one model can answer. `models` has the name/version of each model in memory."""

    ready: bool
    models: list[str]


class Unreadiness(BaseModel):
    """No model can answer now."""

    ready: bool
    reason: str


router = APIRouter(prefix="/healthz", tags=["health"])
_DEAD: dict[str, Any] = {"model": Liveness, "description": "The compute thread died; restart the server."}
_UNREADY: dict[str, Any] = {"model": Unreadiness, "description": "No model can answer, and why."}


@router.get("/live", responses={503: _DEAD, **problem_docs("internal")})
async def live(response: Response, state: State) -> Liveness:
    """Report whether the process and its compute thread run."""
    response.status_code = 200 if state.batcher.alive else 503
    return Liveness(live=state.batcher.alive)


@router.get(
    "/ready",
    response_model=Readiness | Unreadiness,
    responses={200: {"model": Readiness}, 503: _UNREADY, **problem_docs("internal")},
)
async def ready(response: Response, state: State) -> Readiness | Unreadiness:
    """Report whether at least one model can answer."""
    if state.unready:
        response.status_code = 503
        return Unreadiness(ready=False, reason=state.unready)
    return Readiness(ready=True, models=[f"{model.name}/{model.version}" for model in state.catalogue.loaded()])
