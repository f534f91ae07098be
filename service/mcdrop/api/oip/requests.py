"""The requests of the Open Inference Protocol, /v2. The data of tensors is not parsed here."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from mcdrop.api.pass_fields import PassFields
from mcdrop.errors import InvalidRequest

# One for each feature of a wide table, and no more than can be checked quickly.
_MOST_TENSORS = 1024
_MOST_LEVELS = 99
_ROW: JsonValue = [0, 0, 5, 13, 9, 1, 0, 0] * 8


def _levels(given: Any) -> Any:
    """Parse quantile levels from a text, as a parameter of the protocol is a single value."""
    if not isinstance(given, str):
        return given
    try:
        return [float(level) for level in given.split(",")]
    except ValueError:
        raise ValueError("is a text of numbers with commas between, such as '0.05,0.95'") from None


class StrictBody(BaseModel):
    """A body that may have no other fields than these."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Parameters(PassFields):
    """Pass options and further parameters. Features that the server lacks are accepted with their neutral value."""

    quantiles: Annotated[
        list[StrictFloat], Field(max_length=_MOST_LEVELS), BeforeValidator(_levels, json_schema_input_type=str)
    ] = Field(
        default=[], description="Levels strictly between 0 and 1, separated by commas; adds the output quantiles."
    )
    samples: StrictBool = Field(default=False, description="Adds the outputs of every pass, as the output samples.")
    timeout: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="The most time until the response, in microseconds."
    )
    binary_data_output: StrictBool = Field(
        default=False, description="Whether to send outputs as bytes if their own parameters do not say."
    )
    content_type: Literal["np"] | None = Field(
        default=None, description="Tensors are numbers, in the terms of MLServer."
    )
    priority: Literal[0] = Field(default=0, description="Only 0: requests are computed in the order they arrive.")
    sequence_id: Literal[0, ""] = Field(default=0, description="Requests do not depend on each other.")
    sequence_start: Literal[False] = False
    sequence_end: Literal[False] = False


class TensorParameters(StrictBody):
    """How a tensor is sent."""

    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None, description="The length of the tensor in bytes after the JSON, which then has no data."
    )
    content_type: Literal["np"] | None = None


class InputTensor(StrictBody):
    """The rows of one input."""

    name: StrictStr
    shape: list[Annotated[StrictInt, Field(ge=0)]] = Field(max_length=32)
    datatype: StrictStr
    parameters: TensorParameters | None = None
    data: Any = Field(default=None, description="The numbers of the tensor, flat or nested, rows first.")

    @property
    def binary_size(self) -> int | None:
        """The length of the tensor in bytes after the JSON; None if it is in the JSON."""
        return self.parameters.binary_data_size if self.parameters is not None else None


class OutputParameters(StrictBody):
    """How to send an output."""

    binary_data: StrictBool | None = Field(
        default=None, description="Whether to send the output as bytes after the JSON."
    )
    content_type: Literal["np"] | None = None


class RequestedOutput(StrictBody):
    """A measure to return."""

    name: StrictStr
    parameters: OutputParameters | None = None

    @property
    def binary(self) -> bool | None:
        """Whether to send the output as bytes; None if the request does not say."""
        return self.parameters.binary_data if self.parameters is not None else None


class InferRequest(StrictBody):
    """Rows to predict, and the measures to return."""

    inputs: list[InputTensor] = Field(min_length=1, max_length=_MOST_TENSORS)
    id: StrictStr | None = Field(default=None, description="Returned with the response.")
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = Field(
        default=None,
        max_length=_MOST_TENSORS,
        description="Measures by name. Absent or empty: all measures of the model.",
    )
    model_name: StrictStr | None = Field(default=None, description="Ignored: the path names it.")
    model_version: StrictStr | None = Field(default=None, description="Ignored: the path names it.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [{"name": "x", "shape": [1, 8, 8], "datatype": "FP32", "data": _ROW}],
                    "outputs": [{"name": "mean"}],
                    "parameters": {"passes": 32, "seed": 0},
                }
            ]
        }
    )


class IndexRequest(StrictBody):
    """Which models to list."""

    ready: StrictBool = Field(default=False, description="Whether to list only the versions that can answer.")


class LoadParameters(StrictBody):
    """Parameters of loading. A published bundle cannot be changed."""

    unload_dependents: StrictBool = Field(default=False, description="Without effect: no model depends on another.")


class LoadRequest(StrictBody):
    """A request to load or unload the model in the path."""

    parameters: LoadParameters | None = None


B = TypeVar("B", bound=StrictBody)
_FIELDS: dict[str, type[StrictBody]] = {"inputs": InputTensor, "outputs": RequestedOutput}
_OF_PARAMETERS: dict[str, type[StrictBody]] = {"inputs": TensorParameters, "outputs": OutputParameters}


def parse_oip_body(kind: type[B], value: Any) -> B:
    """Return a request from the value of a JSON body.

    Args:
        kind: The schema of the request.
        value: The value.

    Returns:
        A request from the value of a JSON body.

    Raises:
        InvalidRequest: A field is missing, unknown or invalid. The message names it.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body is not a JSON object; its fields are {', '.join(kind.model_fields)}.")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = first["loc"]
        known = ", ".join(_model_of(kind, place).model_fields)
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{'.'.join(map(str, place))}: {said}. The fields there are {known}.") from error


def _model_of(kind: type[StrictBody], place: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model that a wrong field belongs to."""
    if "parameters" in place[:-1]:
        return _OF_PARAMETERS.get(str(place[0]), LoadParameters if kind is LoadRequest else Parameters)
    return _FIELDS.get(str(place[0]), kind) if len(place) > 1 else kind
