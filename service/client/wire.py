"""Questions as httpx's requests."""

from typing import Any

import httpx

from service.client.asks import Ask
from service.client.patience import Patience


def options(url: str, api_key: str | None) -> dict[str, Any]:
    """What a client of httpx is made of."""
    return {"base_url": url, "headers": {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}}


def request_of(http: httpx.Client | httpx.AsyncClient, ask: Ask, patience: Patience) -> httpx.Request:
    """A question with the time that is left for it."""
    kind = {"Content-Type": ask.content_type} if ask.content_type else {}
    return http.build_request(
        ask.method,
        ask.path,
        params=ask.query or None,
        content=ask.content,
        headers={"Accept": ask.accept, **kind, **patience.headers},
        timeout=patience.timeout_s,
    )
