"""Whether the process is alive, and whether it can answer."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from mcdrop.http.error_docs import problem_docs
from mcdrop.inference.state import State


class Liveness(BaseModel):
    """Whether the process runs, and what computes in it."""

    live: bool


class Readiness(BaseModel):
    """At least one model can be asked. models: name/version of each that is in memory."""

    ready: bool
    models: list[str]


class Unreadiness(BaseModel):
    """No model can be asked now."""

    ready: bool
    reason: str


router = APIRouter(prefix="/healthz", tags=["health"])
_DEAD: dict[str, Any] = {"model": Liveness, "description": "What computes has died; restart the server."}
_UNREADY: dict[str, Any] = {"model": Unreadiness, "description": "No model can be asked, and why."}


@router.get("/live", responses={503: _DEAD, **problem_docs("internal")})
async def live(response: Response, shared: State) -> Liveness:
    """The process runs, and what computes in it."""
    response.status_code = 200 if shared.batcher.alive else 503
    return Liveness(live=shared.batcher.alive)


@router.get(
    "/ready",
    response_model=Readiness | Unreadiness,
    responses={200: {"model": Readiness}, 503: _UNREADY, **problem_docs("internal")},
)
async def ready(response: Response, shared: State) -> Readiness | Unreadiness:
    """At least one model can be asked."""
    if shared.unready:
        response.status_code = 503
        return Unreadiness(ready=False, reason=shared.unready)
    return Readiness(ready=True, models=[f"{model.name}/{model.version}" for model in shared.catalogue.loaded()])
