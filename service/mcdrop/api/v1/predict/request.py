"""Decoding predict requests of /v1 into queries."""

from functools import partial

from fastapi import Request

from mcdrop.api.v1.payload import Payload
from mcdrop.api.v1.schemas import PredictRequest, parse_body
from mcdrop.http.media_types import JSON, negotiate
from mcdrop.inference.call import Call
from mcdrop.inference.inputs import to_inputs
from mcdrop.inference.query import Query, RequestLimits, pass_overrides
from mcdrop.wire.json import JsonParser
from mcdrop.wire.offload import offload
from mcdrop_models.loading.predictor import Predictor


async def read_query(call: Call) -> Query:
    """Read and decode the body of a predict request.

    Args:
        call: The call.

    Returns:
        The query.

    Raises:
        RequestError: The body cannot be read.
        InvalidInput: The query does not fit the model.
        UnknownMeasure: The model does not have one of the measures.
    """
    with call.phase("decode"):
        payload = await Payload.read(call)
        work = partial(decode, payload, call.model.predictor, call.state.limits, call.state.json)
        return await offload(work, payload.decoding_cost)


def decode(payload: Payload, predictor: Predictor, limits: RequestLimits, parser: JsonParser) -> Query:
    """Return the query that a payload describes.

    Args:
        payload: The body, and the fields of the query string.
        predictor: The model.
        limits: The limits of one request.
        parser: Parses the JSON.

    Returns:
        The query that a payload describes.
    """
    is_json = payload.media_type == JSON
    fields = payload.json(parser) if is_json else {**payload.fields, "inputs": payload.arrays()}
    request = parse_body(PredictRequest, fields)
    return Query.of(
        predictor,
        to_inputs(request.inputs, predictor.manifest),
        limits,
        overrides=pass_overrides(request),
        outputs=request.outputs,
        quantiles=request.quantiles,
        samples=request.samples,
        defer_above=request.defer_above,
    )


def response_media_type(request: Request, offered: tuple[str, ...]) -> str:
    """Return the media type of the response.

    Args:
        request: The request.
        offered: The media types that the endpoint writes.

    Returns:
        The media type of the response.

    Raises:
        NotAcceptable: The client accepts none of them.
    """
    return negotiate(",".join(request.headers.getlist("accept")), offered)
