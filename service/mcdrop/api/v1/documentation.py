"""The OpenAPI description of bodies and responses that FastAPI does not parse itself."""

from typing import Any

from pydantic import BaseModel

from mcdrop.http.error_docs import COMPUTE_ERRORS, Responses, problem_docs
from mcdrop.http.media_types import JSON, NDJSON, NPY, NPZ
from mcdrop.http.openapi import BYTES, COMPRESSED, TIMEOUT, inline_definitions

# Fields of the body only; and fields that may be objects, which the query string holds as JSON.
_ROWS, _OBJECTS = {"inputs", "labelled", "targets"}, {"tolerance", "defer_above", "quotas"}
_PROBLEMS = problem_docs(*COMPUTE_ERRORS, "not-acceptable")
PREDICT_RESPONSES: Responses = {
    200: {
        "description": "The measures. A .npz file has each as a member, beside the provenance: model, version, passes, "
        "seed, sampling, masks, branches, noise, labels, quantile_levels. Lines of JSON are sent row by row as they "
        "are "
        "computed, with the provenance in Mcdrop- headers; if the computation fails, the last line has an error.",
        "content": {NPZ: {"schema": BYTES}, NDJSON: {"schema": {"type": "string"}}},
    },
    **_PROBLEMS,
}
RANK_RESPONSES: Responses = {
    **PREDICT_RESPONSES,
    200: {
        "description": "Rows in the order they were picked. A .npz file has each field, and each of the parts, as a "
        "member.",
        "content": {NPZ: {"schema": BYTES}},
    },
}


PREDICT_MEMBERS = ".npz with a member for each input of a model of several."
RANK_MEMBERS = (
    ".npz with the members inputs, labelled and targets (labelled.x for the input x of a model of several), "
    "costs, groups, exclude and ids. The frame of the Open Inference Protocol, marked by the header "
    "Inference-Header-Content-Length, is read too: tensors are named as the members, and the other fields are "
    "parameters."
)


def request_docs(body: type[BaseModel], members: str) -> dict[str, Any]:
    """Return the media types of a body, and its fields as parameters of the query string.

    Args:
        body: The schema of the JSON body.
        members: A description of the members of a .npz body.

    Returns:
        The media types of a body.
    """
    schema = inline_definitions(body.model_json_schema())
    return {
        "requestBody": {
            "required": True,
            "description": "JSON; or only the rows, in a file of numpy, with the other fields in the query string: "
            f".npy for a model of one input, {members} {COMPRESSED}",
            "content": {JSON: {"schema": schema}, NPY: {"schema": BYTES}, NPZ: {"schema": BYTES}},
        },
        "parameters": [
            *(_parameter(name, field) for name, field in schema["properties"].items() if name not in _ROWS),
            TIMEOUT,
        ],
    }


def _parameter(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """Return a field of a body as a parameter of the query string. It may be in either, but not in both.

    A default or an example would be sent by forms that fill it in, and then be in both. Objects are sent as JSON texts,
    because such forms would fill in an object with made-up names.
    """
    schema = {key: value for key, value in field.items() if key not in {"default", "description", "examples"}}
    if name in _OBJECTS:
        schema = {"type": "string", "contentMediaType": JSON, "contentSchema": schema}
    return {"name": name, "in": "query", "description": field["description"], "schema": schema}
