"""Decoding inference requests of the Open Inference Protocol into queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.measures.precision import PRECISION
from mcdrop.api.oip.datatypes import from_bytes, from_json, raw_rows
from mcdrop.api.oip.metadata import output_names
from mcdrop.api.oip.requests import InferRequest, InputTensor, Parameters, RequestedOutput, parse_oip_body
from mcdrop.errors import InvalidRequest
from mcdrop.inference.call import Call
from mcdrop.inference.inputs import to_inputs
from mcdrop.inference.query import Query, RequestLimits, pass_overrides
from mcdrop.wire.json import JsonParser
from mcdrop.wire.npy import Array
from mcdrop.wire.offload import offload
from mcdrop.wire.oip_frame import LENGTH_HEADER, Frame
from mcdrop_models.loading.predictor import Predictor


@dataclass(frozen=True)
class ResponseOptions:
    """How a client wants the response.

    Attributes:
        id: Repeated in the response; None for none.
        timeout_s: The most seconds until the response; None for the server's own limit.
        binary: For outputs by name, whether they are sent as bytes.
        binary_by_default: Whether the other outputs are.
    """

    id: str | None = None
    timeout_s: float | None = None
    binary: Mapping[str, bool] = field(default_factory=dict)
    binary_by_default: bool = False

    def is_binary(self, output: str) -> bool:
        """Return whether an output is sent as bytes.

        Args:
            output: The name of the output.

        Returns:
            True if an output is sent as bytes.
        """
        return self.binary.get(output, self.binary_by_default)


async def read_query(call: Call) -> tuple[Query, ResponseOptions]:
    """Read and decode the body of an inference request.

    Args:
        call: The call.

    Returns:
        The query, and how the client wants the response.

    Raises:
        RequestError: The body cannot be read.
        InvalidInput: The query does not fit the model.
        UnknownMeasure: The model does not have one of the outputs.
    """
    with call.phase("decode"):
        frame = Frame.of(await call.body(), call.request.headers.get(LENGTH_HEADER))
        work = partial(decode, frame, call.model.predictor, call.state.limits, call.state.json)
        return await offload(work, frame.decoding_cost)


def decode(
    frame: Frame, predictor: Predictor, limits: RequestLimits, parser: JsonParser
) -> tuple[Query, ResponseOptions]:
    """Return the query that a body describes, and how the client wants the response.

    Args:
        frame: The body.
        predictor: The model.
        limits: The limits of one request.
        parser: Parses the JSON.

    Returns:
        The query that a body describes.
    """
    if frame.raw:
        return _decode_raw(frame.tensors, predictor, limits)
    request = parse_oip_body(InferRequest, parser.parse(frame.json))
    parameters = request.parameters or Parameters()
    arrays = tensor_arrays(request.inputs, frame.split([tensor.binary_size for tensor in request.inputs]))
    query = Query.of(
        predictor,
        to_inputs(arrays, predictor.manifest),
        limits,
        overrides=pass_overrides(parameters),
        outputs=_outputs(predictor, request.outputs or [], parameters),
        quantiles=parameters.quantiles,
        samples=parameters.samples,
    )
    return query, ResponseOptions(
        request.id,
        None if parameters.timeout is None else parameters.timeout / 1e6,
        {output.name: binary for output in request.outputs or [] if (binary := output.binary) is not None},
        parameters.binary_data_output,
    )


def tensor_arrays(tensors: Sequence[InputTensor], parts: Sequence[memoryview | None]) -> dict[str, Array]:
    """Return the arrays of tensors by name.

    Args:
        tensors: The tensors, as the JSON describes them.
        parts: The bytes of each; None for a tensor in the JSON.

    Returns:
        The arrays of tensors by name.

    Raises:
        InvalidInput: A tensor is sent twice, or its numbers are not those it describes.
    """
    arrays: dict[str, Array] = {}
    for tensor, part in zip(tensors, parts, strict=True):
        if tensor.name in arrays:
            raise InvalidInput(f"there are two inputs {tensor.name[:64]!r}; send each once.")
        if part is None:
            arrays[tensor.name] = from_json(tensor.name, tensor.datatype, tensor.shape, tensor.data)
        elif tensor.data is not None:
            raise InvalidInput(f"{tensor.name[:64]} has data and a binary_data_size; send one of them.")
        else:
            arrays[tensor.name] = from_bytes(tensor.name, tensor.datatype, tensor.shape, part)
    return arrays


def _decode_raw(raw: memoryview, predictor: Predictor, limits: RequestLimits) -> tuple[Query, ResponseOptions]:
    """Decode a body without JSON: the only input of a model. Its response has no numbers in JSON either."""
    inputs = predictor.manifest.inputs
    sizes = [size for size in inputs[0].shape if isinstance(size, int)]
    if len(inputs) != 1 or len(sizes) != len(inputs[0].shape):
        raise InvalidRequest(
            f"{LENGTH_HEADER} is 0, but {predictor.manifest.name} has several inputs, or one whose rows have no fixed "
            "size. Send JSON that describes the bytes."
        )
    rows = raw_rows(inputs[0].name, inputs[0].dtype, sizes, raw)
    tensors = to_inputs({inputs[0].name: rows}, predictor.manifest)
    query = Query.of(predictor, tensors, limits, outputs=list(output_names(predictor)))
    return query, ResponseOptions(binary_by_default=True)


def _outputs(predictor: Predictor, outputs: Sequence[RequestedOutput], parameters: Parameters) -> list[str] | None:
    """Return the names of the requested measures; None for those that come with a tolerance."""
    if not outputs:
        return None if parameters.tolerance is not None else list(output_names(predictor))
    known = {*output_names(predictor), *PRECISION}
    extras = (("quantiles", bool(parameters.quantiles)), ("samples", parameters.samples))
    added = {name for name, present in extras if present}
    names = [output.name for output in outputs]
    for name in names:
        if name not in known | added:
            raise UnknownMeasure(
                f"{predictor.manifest.name} has no output {name[:64]!r}; it has {', '.join(sorted(known))}, and with "
                "the parameters quantiles or samples the outputs of those names."
            )
    return names
