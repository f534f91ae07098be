"""Whether the process is alive, and whether it can answer."""

from fastapi import APIRouter, Response

from service.state import Shared

router = APIRouter(prefix="/healthz", tags=["health"])


@router.get("/live")
async def live() -> dict[str, bool]:
    """The process runs."""
    return {"live": True}


@router.get("/ready")
async def ready(response: Response, shared: Shared) -> dict[str, bool | str | list[str]]:
    """At least one model can be asked."""
    loaded = [f"{predictor.manifest.name}/{predictor.version}" for predictor in shared.catalogue.loaded()]
    if shared.started and loaded:
        return {"ready": True, "models": loaded}
    response.status_code = 503
    if not shared.started:
        return {"ready": False, "reason": "the bundles are being loaded."}
    return {
        "ready": False,
        "reason": "no bundle can be served. Publish one into the bundles folder (mcdrop publish, mcdrop train), or "
        "mount a folder of them: docker run -v $PWD/bundles:/bundles:ro. GET /v1/models says why a bundle is refused.",
    }
