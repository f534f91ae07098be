"""GET /metrics, for Prometheus."""

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from mcdrop.http.error_docs import problem_docs
from mcdrop.inference.state import State

router = APIRouter(tags=["health"])


_MEDIA_TYPES = {
    "text/plain": {"schema": {"type": "string"}},
    "application/openmetrics-text": {"schema": {"type": "string"}},
}


@router.get("/metrics", response_class=Response, responses={200: {"content": _MEDIA_TYPES}, **problem_docs("internal")})
async def metrics(request: Request, state: State) -> Response:
    """Return every metric, as text or as OpenMetrics, as the Accept header says."""
    content, media_type = await anyio.to_thread.run_sync(state.metrics.text, request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type})
