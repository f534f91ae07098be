"""The body of a request: all of it, in time, and without its compression."""

import asyncio

import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from mcdrop.errors import BodyTooLarge, ClientGone, RequestTimeout
from mcdrop.http.compression import decompress


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The body of a request, inflated off the event loop. seconds: how long it may take to come.

    Raises BodyTooLarge, RequestTimeout, ClientGone, UnsupportedMediaType or InvalidRequest.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await receive_body(request, max_bytes)
    except TimeoutError as error:
        raise RequestTimeout("the body did not come in time; send it faster, or less of it.") from error
    except ClientDisconnect as error:
        raise ClientGone("the caller left before the whole body came.") from error
    encoding = ", ".join(request.headers.getlist("content-encoding"))
    return await anyio.to_thread.run_sync(decompress, body, encoding, max_bytes) if encoding else body


async def receive_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge by its declared length, or as soon as more arrives; or ClientDisconnect."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes; {max_bytes} are accepted. Send fewer rows at a time.")
    parts, length = [], 0
    async for part in request.stream():
        parts.append(part)
        length += len(part)
        if length > max_bytes:
            raise BodyTooLarge(
                f"the body has more than the {max_bytes} bytes that are accepted. Send fewer rows at a time."
            )
    return b"".join(parts)
