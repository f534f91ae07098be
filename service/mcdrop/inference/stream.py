"""Answers that are sent as they are computed."""

import logging
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from dropout_core.errors import McdropError
from mcdrop.errors import ClientGone
from mcdrop.http.media_types import NDJSON
from mcdrop.http.problems import error_response
from mcdrop.inference.call import Call

_log = logging.getLogger("mcdrop")


class LineStream(StreamingResponse):
    """Lines of JSON as they come. What goes wrong after the first is told by a last line, {"error": the problem}.

    The call ends with the answer; when its reader leaves, the rest is computed for nobody, and is not.
    """

    def __init__(self, call: Call, first: bytes, rest: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(self._sent(), headers=headers, media_type=NDJSON)
        self._call, self._first, self._rest = call, first, rest
        self._ended: BaseException | None = ClientGone("the caller left before the whole answer was sent.")

    @staticmethod
    async def of(call: Call, parts: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> "LineStream":
        """An answer once its first part is there: what goes wrong before is raised, and has an answer of its own."""
        first = await anext(parts)
        call.keep_open()
        return LineStream(call, first, parts, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. However that ends, nothing of the call stays behind."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()
            self._call.end(self._ended)

    async def _sent(self) -> AsyncGenerator[bytes, None]:
        yield self._first
        try:
            async for part in self._rest:
                yield part
        except Exception as error:  # noqa: BLE001 - the status is sent already: this is the last place to tell it
            if not isinstance(error, McdropError):
                _log.exception("a streamed answer failed")
            self._ended = error
            yield b'{"error":' + bytes(error_response(error, self._call.request.url.path).body) + b"}\n"
        else:
            self._ended = None
