"""An inference request as a checked query, and how its answer is wanted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.measures.precision import PRECISION
from mcdrop.api.oip.datatypes import from_bytes, from_json, raw_rows
from mcdrop.api.oip.metadata import output_names
from mcdrop.api.oip.requests import InferRequest, InputTensor, Parameters, RequestedOutput, parse_oip_body
from mcdrop.errors import InvalidRequest
from mcdrop.inference.inputs import arrays_to_inputs
from mcdrop.inference.query import Query, RequestLimits, make_query, pass_overrides
from mcdrop.wire.json import parse_json
from mcdrop.wire.npy import Array
from mcdrop.wire.oip_frame import LENGTH_HEADER, Frame
from mcdrop_models.loading.predictor import Predictor


@dataclass(frozen=True)
class InferQuery:
    """A query, and how its answer is wanted. binary: whether outputs come as bytes; others are by default."""

    query: Query
    id: str | None = None
    timeout_s: float | None = None
    binary: Mapping[str, bool] = field(default_factory=dict)
    binary_by_default: bool = False

    def is_binary(self, output: str) -> bool:
        """Whether an output is wanted as bytes."""
        return self.binary.get(output, self.binary_by_default)


def question_of(
    predictor: Predictor, frame: Frame, limits: RequestLimits, parse_json: Callable[[bytes], Any] = parse_json
) -> InferQuery:
    """What a body asks. parse_json: how its JSON is read; inputs may come as arrays.

    Raises MalformedJson, InvalidRequest, InvalidInput or UnknownMeasure.
    """
    if frame.raw:
        return _raw_question(predictor, frame.tensors, limits)
    request = parse_oip_body(InferRequest, parse_json(frame.json))
    asked = request.parameters or Parameters()
    arrays = tensor_arrays(request.inputs, frame.cut([tensor.binary_size for tensor in request.inputs]))
    query = make_query(
        predictor,
        arrays_to_inputs(arrays, predictor.manifest),
        limits,
        overrides=pass_overrides(asked),
        outputs=_outputs(predictor, request.outputs or [], asked),
        quantiles=asked.quantiles,
        samples=asked.samples,
    )
    return InferQuery(
        query,
        request.id,
        None if asked.timeout is None else asked.timeout / 1e6,
        {output.name: binary for output in request.outputs or [] if (binary := output.binary) is not None},
        asked.binary_data_output,
    )


def _raw_question(predictor: Predictor, raw: memoryview, limits: RequestLimits) -> InferQuery:
    """A body without JSON is the only input of a model, and its answer has no numbers in JSON either."""
    inputs = predictor.manifest.inputs
    sizes = [size for size in inputs[0].shape if isinstance(size, int)]
    if len(inputs) != 1 or len(sizes) != len(inputs[0].shape):
        raise InvalidRequest(
            f"{LENGTH_HEADER} is 0, and {predictor.manifest.name} has several inputs, or one whose rows have no fixed "
            "size; send JSON that says what the bytes are."
        )
    rows = raw_rows(inputs[0].name, inputs[0].dtype, sizes, raw)
    query = make_query(
        predictor,
        arrays_to_inputs({inputs[0].name: rows}, predictor.manifest),
        limits,
        outputs=list(output_names(predictor)),
    )
    return InferQuery(query, binary_by_default=True)


def tensor_arrays(tensors: Sequence[InputTensor], parts: Sequence[memoryview | None]) -> dict[str, Array]:
    """The inputs by name. Raises InvalidInput."""
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


def _outputs(predictor: Predictor, outputs: Sequence[RequestedOutput], asked: Parameters) -> list[str] | None:
    """The measures to answer, by the very names that were asked for; None: those that go with a tolerance."""
    if not outputs:
        return None if asked.tolerance is not None else list(output_names(predictor))
    known = {*output_names(predictor), *PRECISION}
    added = {name for name, wanted in (("quantiles", bool(asked.quantiles)), ("samples", asked.samples)) if wanted}
    names = [output.name for output in outputs]
    for name in names:
        if name not in known | added:
            raise UnknownMeasure(
                f"{predictor.manifest.name} has no output {name[:64]!r}; it has {', '.join(sorted(known))}, and with "
                "the parameters quantiles or samples the outputs of those names."
            )
    return names
