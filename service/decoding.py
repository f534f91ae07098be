"""Bodies of /v1 in whichever form they have, and the form that an answer is wanted in."""

from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from service.call import SMALL_BODY_BYTES, Call
from service.forms import NPY, NPZ, OIP, form_of_answer, form_of_body
from service.framing import FASTER, LENGTH_HEADER, Frame
from service.reading import Sent

T = TypeVar("T")


async def decoded(call: Call, read: Callable[[Sent], T], *, framed: bool = False) -> T:
    """What is read of a request. framed: whether it may come in the frame of the Open Inference Protocol."""
    request, max_bytes = call.request, call.shared.settings.max_body_bytes
    length = request.headers.get(LENGTH_HEADER) if framed else None
    form = OIP if length is not None else form_of_body(request.headers.get("content-type", ""))
    query = request.query_params.multi_items()

    def weight(body: bytes) -> int:
        if form == NPZ:  # however short it is: its length says nothing of what it inflates to
            return SMALL_BODY_BYTES + 1
        if form == OIP:
            return Frame.of(body, length).weight
        return len(body) // FASTER if form == NPY else len(body)

    def sent(body: bytes) -> Sent:
        return Sent(body, form, query, max_bytes, call.shared.parse_json, length)

    return await call.decode(lambda body: read(sent(body)), weight)


def form_wanted(request: Request, offered: tuple[str, ...]) -> str:
    """The form of the answer. Raises NotAcceptable."""
    return form_of_answer(",".join(request.headers.getlist("accept")), offered)
