"""A server that answers as it was told to."""

from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response


@dataclass
class Scripted:
    """Answers with one after the other; the last one stays. asked: the requests that came, as ASGI has them."""

    answers: list[Response]
    asked: list[Any] = field(default_factory=list)

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        self.asked.append(scope)
        await self.answers[min(len(self.asked), len(self.answers)) - 1](scope, receive, send)

    def header(self, name):
        """What each request had in a header."""
        return [dict(scope["headers"]).get(name.encode(), b"").decode() for scope in self.asked]


def busy(status=503, **headers):
    """A refusal by a server that may do it later."""
    body = b'{"type":"urn:mcdrop:busy","title":"Busy","status":%d,"detail":"later."}' % status
    return Response(body, status, headers, media_type="application/problem+json")


def no_models():
    """A list of the models of a server that has none."""
    return JSONResponse({"models": []})
