"""The answer to an inference request, as JSON or as JSON and bytes."""

from collections.abc import Mapping
from typing import Any

from mcdrop.api.oip.datatypes import OF_NUMPY
from mcdrop.api.oip.decode import InferQuery
from mcdrop.inference.query import Query
from mcdrop.wire.npy import Array
from mcdrop.wire.oip_frame import EncodedFrame, encode_frame
from mcdrop_models.loading.predictor import Predictor

# A number costs so much less to write as bytes than as JSON.
_BYTES_ARE_CHEAPER = 100


def encode_response(predictor: Predictor, question: InferQuery, measures: Mapping[str, Array]) -> EncodedFrame:
    """All measures of a question. They are finite: a row that is not is refused before it comes here."""
    document: dict[str, Any] = {
        "model_name": predictor.manifest.name,
        "model_version": str(predictor.version),
        "parameters": _run(predictor, question.query),
        "outputs": [_tensor(name, array, question.is_binary(name)) for name, array in measures.items()],
    }
    if question.id is not None:
        document["id"] = question.id
    return encode_frame(document, [array for name, array in measures.items() if question.is_binary(name)])


def encoding_cost(question: InferQuery, measures: Mapping[str, Array]) -> int:
    """How many numbers as JSON an answer costs as much as."""
    return sum(
        array.size // (_BYTES_ARE_CHEAPER if question.is_binary(name) else 1) for name, array in measures.items()
    )


def _tensor(name: str, array: Array, binary: bool) -> dict[str, Any]:
    head = {"name": name, "datatype": OF_NUMPY[array.dtype.name], "shape": list(array.shape)}
    if binary:
        return {**head, "parameters": {"binary_data_size": array.nbytes}}
    return {**head, "data": array.reshape(-1)}


def _run(predictor: Predictor, query: Query) -> dict[str, Any]:
    """What a run was, enough to repeat it: parameters that may be sent again, and the version of the noise."""
    options = query.plan
    run: dict[str, Any] = {
        "passes": query.plan.passes,
        "seed": query.plan.seed,
        "sampling": options.sampling,
        "masks": options.masks,
        "branches": options.branches,
        "noise": predictor.manifest.noise,
    }
    if query.quantiles:
        run["quantiles"] = ",".join(map(str, query.quantiles))
    return run
