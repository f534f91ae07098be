"""Encoding the response to an inference request, as JSON or as JSON followed by bytes."""

from collections.abc import Mapping
from typing import Any

from mcdrop.api.oip.datatypes import OF_NUMPY
from mcdrop.api.oip.decode import ResponseOptions
from mcdrop.inference.query import Query
from mcdrop.wire.npy import Array
from mcdrop.wire.offload import json_cost
from mcdrop.wire.oip_frame import EncodedFrame, encode_frame

# A number costs this many times less to write as bytes than as JSON.
_BYTES_ARE_CHEAPER = 100


def encode(query: Query, options: ResponseOptions, measures: Mapping[str, Array]) -> EncodedFrame:
    """Return the response to an inference request.

    Args:
        query: The query.
        options: How the client wants the response.
        measures: Arrays by measure, rows first. They are finite.

    Returns:
        The response to an inference request.
    """
    document: dict[str, Any] = {
        "model_name": query.predictor.manifest.name,
        "model_version": str(query.predictor.version),
        "parameters": _parameters(query),
        "outputs": [_tensor(name, array, options.is_binary(name)) for name, array in measures.items()],
    }
    if options.id is not None:
        document["id"] = options.id
    return encode_frame(document, [array for name, array in measures.items() if options.is_binary(name)])


def encoding_cost(options: ResponseOptions, measures: Mapping[str, Array]) -> int:
    """Return the estimated cost of encoding a response, in equivalent JSON bytes.

    Args:
        options: How the client wants the response.
        measures: Arrays by measure.

    Returns:
        The estimated cost of encoding a response, in equivalent JSON bytes.
    """
    return json_cost(
        sum(array.size // (_BYTES_ARE_CHEAPER if options.is_binary(name) else 1) for name, array in measures.items())
    )


def _tensor(name: str, array: Array, binary: bool) -> dict[str, Any]:
    head = {"name": name, "datatype": OF_NUMPY[array.dtype.name], "shape": list(array.shape)}
    if binary:
        return {**head, "parameters": {"binary_data_size": array.nbytes}}
    return {**head, "data": array.reshape(-1)}


def _parameters(query: Query) -> dict[str, Any]:
    """Return the provenance: parameters that repeat the response, and the version of the noise."""
    options = query.options
    parameters: dict[str, Any] = {
        "passes": options.passes,
        "seed": options.seed,
        "sampling": options.sampling,
        "masks": options.masks,
        "branches": options.branches,
        "noise": query.predictor.manifest.noise,
    }
    if query.quantiles:
        parameters["quantiles"] = ",".join(map(str, query.quantiles))
    return parameters
