"""Reading the body of a request: whole, in time, and decompressed."""

import asyncio

import anyio.to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from mcdrop.errors import BodyTooLarge, ClientGone, RequestTimeout
from mcdrop.http.compression import decompress


async def read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Return the body of a request. A compressed body is decompressed in a worker thread.

    Args:
        request: The request.
        max_bytes: The largest body to accept, compressed or not.
        timeout_s: Seconds the body may take to arrive.

    Returns:
        The body of a request.

    Raises:
        BodyTooLarge: The body is larger than `max_bytes`.
        RequestTimeout: The body did not arrive in time.
        ClientGone: The client closed the connection.
        UnsupportedMediaType: The Content-Encoding is neither gzip nor deflate.
        InvalidRequest: The body is not compressed as its Content-Encoding says.
    """
    try:
        async with asyncio.timeout(timeout_s):
            body = await receive_body(request, max_bytes)
    except TimeoutError as error:
        raise RequestTimeout("the body did not arrive in time. Send it faster, or send fewer rows.") from error
    except ClientDisconnect as error:
        raise ClientGone("the client left before the whole body arrived.") from error
    encoding = ", ".join(request.headers.getlist("content-encoding"))
    return await anyio.to_thread.run_sync(decompress, body, encoding, max_bytes) if encoding else body


async def receive_body(request: Request, max_bytes: int) -> bytes:
    """Return the bytes of a body as they were sent.

    Args:
        request: The request.
        max_bytes: The largest body to accept.

    Returns:
        The bytes of a body as they were sent.

    Raises:
        BodyTooLarge: The declared length, or what has arrived, exceeds `max_bytes`.
        ClientDisconnect: The client closed the connection.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes; {max_bytes} are accepted. Send fewer rows at a time.")
    chunks, length = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        length += len(chunk)
        if length > max_bytes:
            raise BodyTooLarge(
                f"the body has more than the {max_bytes} bytes that are accepted. Send fewer rows at a time."
            )
    return b"".join(chunks)
