"""Whether the process is alive, and whether it can answer."""

from typing import Any

from fastapi import APIRouter, Response

from service.schemas.health import Liveness, Readiness, Unreadiness
from service.schemas.refusals import problems
from service.state import Shared

router = APIRouter(prefix="/healthz", tags=["health"])
_DEAD: dict[str, Any] = {"model": Liveness, "description": "What computes has died; restart the server."}
_UNREADY: dict[str, Any] = {"model": Unreadiness, "description": "No model can be asked, and why."}


@router.get("/live", responses={503: _DEAD, **problems("internal")})
async def live(response: Response, shared: Shared) -> Liveness:
    """The process runs, and what computes in it."""
    response.status_code = 200 if shared.batcher.alive else 503
    return Liveness(live=shared.batcher.alive)


@router.get(
    "/ready",
    response_model=Readiness | Unreadiness,
    responses={200: {"model": Readiness}, 503: _UNREADY, **problems("internal")},
)
async def ready(response: Response, shared: Shared) -> Readiness | Unreadiness:
    """At least one model can be asked."""
    if shared.unready:
        response.status_code = 503
        return Unreadiness(ready=False, reason=shared.unready)
    return Readiness(ready=True, models=[f"{model.name}/{model.version}" for model in shared.catalogue.loaded()])
