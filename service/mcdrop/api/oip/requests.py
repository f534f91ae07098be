"""What the Open Inference Protocol is asked, /v2. The data of tensors is left as it came: `mcdrop.api.oip` reads it."""

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

from mcdrop.api.v1.schemas import BRANCHING, MIN_PASSES, PASSES, SEED, TOLERANCE
from mcdrop.errors import InvalidRequest

# One for each feature of a wide table, and no more than can be checked quickly.
_MOST_TENSORS = 1024
_MOST_LEVELS = 99
_ROW: JsonValue = [0, 0, 5, 13, 9, 1, 0, 0] * 8


def _levels(given: Any) -> Any:
    """Quantile levels from a text: a parameter of the protocol is one value."""
    if not isinstance(given, str):
        return given
    try:
        return [float(level) for level in given.split(",")]
    except ValueError:
        raise ValueError("is a text of numbers with commas between, such as '0.05,0.95'") from None


class StrictBody(BaseModel):
    """What is sent has these fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Parameters(StrictBody):
    """What is asked beside the tensors. What is not done here may be sent with the value that asks for nothing."""

    passes: StrictInt | None = Field(
        default=None, description="Stochastic passes; absent: the bundle's own number.", json_schema_extra=PASSES
    )
    seed: StrictInt | None = Field(
        default=None,
        description="Decides the masks; absent: the bundle's own; null: one is drawn and reported.",
        json_schema_extra=SEED,
    )
    sampling: Literal["balanced", "iid"] | None = Field(
        default=None, description="How masks of different passes relate; absent: as the bundle says."
    )
    masks: Literal["shared", "independent"] | None = Field(
        default=None, description="One sampled network for each pass, or one for each pass and row; as sampling."
    )
    branches: StrictInt | None = Field(
        default=None,
        description="Passes that share all noise but that of the last sites; as sampling.",
        json_schema_extra=BRANCHING,
    )
    tolerance: StrictFloat | dict[StrictStr, StrictFloat] | None = Field(
        default=None,
        description="Stop a row once the standard error of its every mean is at most this.",
        json_schema_extra=TOLERANCE,
    )
    min_passes: StrictInt | None = Field(
        default=None, description="The fewest passes of a row that may stop early.", json_schema_extra=MIN_PASSES
    )
    quantiles: Annotated[
        list[StrictFloat], Field(max_length=_MOST_LEVELS), BeforeValidator(_levels, json_schema_input_type=str)
    ] = Field(
        default=[], description="Levels strictly between 0 and 1, with commas between; adds the output quantiles."
    )
    samples: StrictBool = Field(default=False, description="Adds the passes themselves, as the output samples.")
    timeout: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="The longest the answer may take, in microseconds."
    )
    binary_data_output: StrictBool = Field(
        default=False, description="Send as bytes what outputs says nothing else about."
    )
    content_type: Literal["np"] | None = Field(default=None, description="Tensors are numbers, as MLServer names it.")
    priority: Literal[0] = Field(default=0, description="Who comes first is computed first.")
    sequence_id: Literal[0, ""] = Field(default=0, description="Requests do not depend on each other.")
    sequence_start: Literal[False] = False
    sequence_end: Literal[False] = False


class TensorParameters(StrictBody):
    """How a tensor is sent."""

    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None, description="Its bytes after the JSON, which then has no data."
    )
    content_type: Literal["np"] | None = None


class InputTensor(StrictBody):
    """Rows of one input."""

    name: StrictStr
    shape: list[Annotated[StrictInt, Field(ge=0)]] = Field(max_length=32)
    datatype: StrictStr
    parameters: TensorParameters | None = None
    data: Any = Field(default=None, description="Its numbers, flat or nested, rows first.")

    @property
    def binary_size(self) -> int | None:
        """Its bytes after the JSON; None where it is in it."""
        return self.parameters.binary_data_size if self.parameters is not None else None


class OutputParameters(StrictBody):
    """How an output is wanted."""

    binary_data: StrictBool | None = Field(default=None, description="As bytes after the JSON.")
    content_type: Literal["np"] | None = None


class RequestedOutput(StrictBody):
    """A measure that is wanted."""

    name: StrictStr
    parameters: OutputParameters | None = None

    @property
    def binary(self) -> bool | None:
        """Whether as bytes; None where nothing is said."""
        return self.parameters.binary_data if self.parameters is not None else None


class InferRequest(StrictBody):
    """Rows to predict, and what to say of them."""

    inputs: list[InputTensor] = Field(min_length=1, max_length=_MOST_TENSORS)
    id: StrictStr | None = Field(default=None, description="Comes back with the answer.")
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = Field(
        default=None, max_length=_MOST_TENSORS, description="Measures by name; absent or empty: all the model has."
    )
    model_name: StrictStr | None = Field(default=None, description="The path says it.")
    model_version: StrictStr | None = Field(default=None, description="The path says it.")

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

    ready: StrictBool = Field(default=False, description="Only those that can be asked.")


class LoadParameters(StrictBody):
    """Of loading: nothing can be changed of a published bundle."""

    unload_dependents: StrictBool = Field(default=False, description="No model depends on another.")


class LoadRequest(StrictBody):
    """A model is named by the path."""

    parameters: LoadParameters | None = None


B = TypeVar("B", bound=StrictBody)
_FIELDS: dict[str, type[StrictBody]] = {"inputs": InputTensor, "outputs": RequestedOutput}
_OF_PARAMETERS: dict[str, type[StrictBody]] = {"inputs": TensorParameters, "outputs": OutputParameters}


def parse_oip_body(kind: type[B], value: Any) -> B:
    """A request of a kind from a JSON value. Raises InvalidRequest, naming the field."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body is no JSON object; its fields are {', '.join(kind.model_fields)}.")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = first["loc"]
        known = ", ".join(_model_of(kind, place).model_fields)
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{'.'.join(map(str, place))}: {said}. The fields there are {known}.") from error


def _model_of(kind: type[StrictBody], place: tuple[int | str, ...]) -> type[StrictBody]:
    """Whose field it is that is wrong."""
    if "parameters" in place[:-1]:
        return _OF_PARAMETERS.get(str(place[0]), LoadParameters if kind is LoadRequest else Parameters)
    return _FIELDS.get(str(place[0]), kind) if len(place) > 1 else kind
