"""Requests of /v1 in any form as checked queries.

Rows come in the body; the other fields in a JSON body beside them, or in the query of the address, which is where they
stand when the body is an array and has no room for them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from fastapi import Request
from torch import Tensor

from mcdrop.api.v1.schemas import PredictRequest, parse_body
from mcdrop.errors import InvalidRequest
from mcdrop.http.media_types import JSON, NPY, NPZ, OIP, body_media_type, negotiate
from mcdrop.inference.call import SMALL_BODY_BYTES, Call
from mcdrop.inference.inputs import arrays_to_inputs, to_inputs
from mcdrop.inference.query import Query, RequestLimits, make_query, pass_overrides
from mcdrop.wire.json import parse_json
from mcdrop.wire.npy import read_npy, read_npz
from mcdrop.wire.oip_frame import FASTER, LENGTH_HEADER, Frame
from mcdrop_models.loading.predictor import Predictor

# Fields that are repeated for each of their values; and those of texts, which stand without JSON's quotes.
_LISTS = {"outputs", "quantiles", "ids", "exclude", "costs"}
_TEXTS = {"outputs", "ids", "exclude", "score", "selector", "reduction", "groups", "sampling", "masks"}
_ROWS = {"inputs", "labelled", "targets"}


@dataclass(frozen=True)
class Sent:
    """A body, its form, and the names and values of the query.

    max_bytes: the longest a body may be when inflated. parse_json: how JSON is read; inputs may come as arrays.
    json_length: of a body in the frame of the Open Inference Protocol, what its header says.
    """

    body: bytes
    form: str
    query: Sequence[tuple[str, str]]
    max_bytes: int
    parse_json: Callable[[bytes], Any] = parse_json
    json_length: str | None = None


def predict_query(predictor: Predictor, sent: Sent, limits: RequestLimits) -> Query:
    """A checked query from a predict request."""
    asked, inputs = _read(predictor, sent)
    return make_query(
        predictor,
        inputs,
        limits,
        overrides=pass_overrides(asked),
        outputs=asked.outputs,
        quantiles=asked.quantiles,
        samples=asked.samples,
        defer_above=asked.defer_above,
    )


def query_fields(query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The fields of an address's query. Values are JSON, but for texts, which stand as they are.

    A list is repeated for each value, and stands once without any when it is empty. Raises InvalidRequest.
    """
    fields: dict[str, Any] = {}
    for name, text in query:
        if name in _ROWS:
            raise InvalidRequest(f"{name} stands in the query of the address; send rows as the body.")
        if name in fields and name not in _LISTS:
            raise InvalidRequest(f"{name} stands in the query of the address twice; send it once.")
        if name in _LISTS:
            fields.setdefault(name, []).extend([value_of(name, text)] if text else [])
        else:
            fields[name] = value_of(name, text)
    return fields


def value_of(name: str, text: str) -> Any:
    """What a text says of a field. One that is no JSON stays a text, which its field then refuses by name."""
    try:
        return text if name in _TEXTS else orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _read(predictor: Predictor, sent: Sent) -> tuple[PredictRequest, Mapping[str, Tensor]]:
    """The fields of a request, and its inputs by name."""
    fields = query_fields(sent.query)
    if sent.form == JSON:
        asked = parse_body(PredictRequest, merged(sent.parse_json(sent.body), fields))
        return asked, to_inputs(asked.inputs, predictor.manifest)
    arrays = read_npy(sent.body) if sent.form == NPY else read_npz(sent.body, sent.max_bytes)
    asked = parse_body(PredictRequest, {**fields, "inputs": arrays})
    return asked, arrays_to_inputs(arrays, predictor.manifest)


def merged(body: Any, fields: Mapping[str, Any]) -> Any:
    """A JSON body with the fields of the query. Raises InvalidRequest for one that stands in both."""
    if not isinstance(body, dict):
        return body
    both = body.keys() & fields.keys()
    if both:
        raise InvalidRequest(f"{min(both)} stands in the body and in the query of the address; send it once.")
    return {**body, **fields}


T = TypeVar("T")


async def decoded(call: Call, read: Callable[[Sent], T], *, framed: bool = False) -> T:
    """What is read of a request. framed: whether it may come in the frame of the Open Inference Protocol."""
    request, max_bytes = call.request, call.shared.settings.max_body_bytes
    length = request.headers.get(LENGTH_HEADER) if framed else None
    form = OIP if length is not None else body_media_type(request.headers.get("content-type", ""))
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


def response_media_type(request: Request, offered: tuple[str, ...]) -> str:
    """The form of the answer. Raises NotAcceptable."""
    return negotiate(",".join(request.headers.getlist("accept")), offered)
