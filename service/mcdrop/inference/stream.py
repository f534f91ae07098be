"""Responses that are sent while they are computed."""

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
    """Lines of JSON, sent as they are computed. An error after the first line is a last line, {"error": the problem}.

    The call ends with the response. If the client leaves, the rows that are not yet computed are dropped.

    Args:
        call: The call, which stays open until the response has been sent.
        first: The first lines.
        rest: The other lines.
        headers: The headers of the response.
    """

    def __init__(self, call: Call, first: bytes, rest: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(self._lines(), headers=headers, media_type=NDJSON)
        self._call, self._first, self._rest = call, first, rest
        self._ended: BaseException | None = ClientGone("the client left before the whole response was sent.")

    @staticmethod
    async def of(call: Call, lines: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> "LineStream":
        """Return a response once its first lines are computed. An error before that is raised.

        Args:
            call: The call.
            lines: The lines, in chunks.
            headers: The headers of the response.

        Returns:
            A response once its first lines are computed.
        """
        first = await anext(lines)
        call.keep_open()
        return LineStream(call, first, lines, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and end the call however that goes.

        Args:
            scope: The request, as ASGI defines it.
            receive: Receives messages of the client.
            send: Sends messages to the client.
        """
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._rest.aclose()
            self._call.end(self._ended)

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        yield self._first
        try:
            async for lines in self._rest:
                yield lines
        except Exception as error:  # noqa: BLE001 - the status was sent already, so only a line can report it
            if not isinstance(error, McdropError):
                _log.exception("a streamed response failed")
            self._ended = error
            yield b'{"error":' + bytes(error_response(error, self._call.request.url.path).body) + b"}\n"
        else:
            self._ended = None
