"""What the OpenAPI document says of bodies and answers that are read and written by hand."""

from typing import Any

from mcdrop.api.v1.rank.schemas import RankRequest
from mcdrop.api.v1.schemas import PredictRequest
from mcdrop.http.error_docs import COMPUTE_ERRORS, Responses, problem_docs
from mcdrop.http.media_types import JSON, NDJSON, NPY, NPZ
from mcdrop.http.openapi import BYTES, COMPRESSED, TIMEOUT, inline_definitions

# Fields of bodies alone; and those that may be objects, which are JSON in an address too.
_ROWS, _OBJECTS = {"inputs", "labelled", "targets"}, {"tolerance", "defer_above", "quotas"}
_PROBLEMS = problem_docs(*COMPUTE_ERRORS, "not-acceptable")
PREDICT_RESPONSES: Responses = {
    200: {
        "description": "The measures. .npz has each as a member, and the run: model, version, passes, seed, sampling, "
        "masks, branches, noise, labels, quantile_levels. Lines of JSON, one for each row as it is computed, have the "
        "run in headers named Mcdrop-; a last line with an error says that there are no more.",
        "content": {NPZ: {"schema": BYTES}, NDJSON: {"schema": {"type": "string"}}},
    },
    **_PROBLEMS,
}
RANK_RESPONSES: Responses = {
    **PREDICT_RESPONSES,
    200: {
        "description": "Rows in the order they were picked; .npz has each field as a member, and each of the parts.",
        "content": {NPZ: {"schema": BYTES}},
    },
}


_FORMS = {
    PredictRequest: ".npz with a member for each.",
    RankRequest: ".npz with members inputs, labelled and targets, or one for each input behind a dot, as labelled.x, "
    "and costs, groups, exclude, ids. Or the frame of the Open Inference Protocol, known by its header "
    "Inference-Header-Content-Length: tensors named as the members, and the other fields as parameters.",
}


def request_docs(body: type[PredictRequest] | type[RankRequest]) -> dict[str, Any]:
    """The forms of a body, and its fields as they may stand in the query of the address."""
    schema = inline_definitions(body.model_json_schema())
    return {
        "requestBody": {
            "required": True,
            "description": "JSON; or the rows alone, as numpy writes them, with all else in the query of the address: "
            f".npy for a model of one input, {_FORMS[body]} {COMPRESSED}",
            "content": {JSON: {"schema": schema}, NPY: {"schema": BYTES}, NPZ: {"schema": BYTES}},
        },
        "parameters": [
            *(_parameter(name, field) for name, field in schema["properties"].items() if name not in _ROWS),
            TIMEOUT,
        ],
    }


def _parameter(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """A field of a body as a parameter of the query: there, or in the body, and not in both."""
    described = {"name": name, "in": "query", "description": field["description"]}
    if name in _OBJECTS:
        return {**described, "content": {JSON: {"schema": field}}}
    return {**described, "schema": field}
