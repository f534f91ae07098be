"""An app driven in this process: without a socket, and over one from a thread."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from mcdrop.inference.catalogue import Catalogue
from mcdrop.server.app import create_app
from mcdrop.settings import Settings

PROBLEM_FIELDS = {"type", "title", "status", "detail"}


class Served:
    """An app between start and stop. Bodies are sent as they are when they are bytes, as JSON otherwise."""

    def __init__(self, settings: Settings, catalogue: Catalogue | None = None) -> None:
        self.app = create_app(settings)
        self.state = self.app.state.mcdrop
        if catalogue is not None:
            self.state.catalogue = catalogue
        self._runner = asyncio.Runner()
        self._lifespan = self.app.router.lifespan_context(self.app)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://server")

    def __enter__(self) -> "Served":
        self._runner.run(self._lifespan.__aenter__())
        return self

    def __exit__(self, *_: Any) -> None:
        self._runner.run(self._http.aclose())
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.close()

    def loaded(self) -> "Served":
        """Once the bundles that were there at start have been tried."""
        return self.until(lambda: self.state.started)

    def until(self, happened: Callable[[], bool]) -> "Served":
        """Once something has happened."""
        self._runner.run(self._until(happened))
        return self

    async def _until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):  # ends a test that would never end
            while not happened():
                await asyncio.sleep(0.001)

    def ask(self, method: str, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        content = body if body is None or isinstance(body, bytes) or hasattr(body, "__aiter__") else json.dumps(body)
        return self._runner.run(self._http.request(method, path, content=content, **kwargs))

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.ask("GET", path, **kwargs)

    def post(self, path: str, body: Any, **kwargs: Any) -> httpx.Response:
        return self.ask("POST", path, body, **kwargs)

    def predict(self, name: str, inputs: Any, **fields: Any) -> dict[str, Any]:
        """A good answer to a predict request."""
        return good(self.post(f"/v1/models/{name}/predict", {"inputs": inputs, **fields}))

    def rank(self, name: str, inputs: Any, **fields: Any) -> dict[str, Any]:
        """A good answer to a rank request."""
        return good(self.post(f"/v1/models/{name}/rank", {"inputs": inputs, **fields}))


def good(answer: httpx.Response) -> dict[str, Any]:
    """The body of an answer that must be one."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return strict(answer.content)


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """The detail of an answer that must be a problem of a status and a code, and of nothing else."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body = strict(answer.content)
    assert set(body) == PROBLEM_FIELDS
    assert (body["type"], body["status"]) == (f"urn:mcdrop:{code}", status)
    assert body["title"]
    return body["detail"]


def strict(content: bytes) -> Any:
    """A JSON value in which NaN and infinity are not."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(content, parse_constant=refuse)


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """The address of an app on a free port, served from a thread."""
    config = uvicorn.Config(app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
