"""The requests and responses of /v1. Inputs are not parsed here: `mcdrop.inference.inputs` makes tensors of them."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictStr,
    ValidationError,
)

from dropout_core.noise.philox import VERSION as NOISE_VERSION
from mcdrop.api.pass_fields import PassFields
from mcdrop.errors import InvalidRequest

THRESHOLDS: dict[str, JsonValue] = {"minProperties": 1}
LEVEL: dict[str, JsonValue] = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
SHARPNESS: dict[str, JsonValue] = {"minimum": 0}
AT_LEAST_ONE: dict[str, JsonValue] = {"minimum": 1}
PART: dict[str, JsonValue] = {"exclusiveMinimum": 0, "maximum": 1}
COST: dict[str, JsonValue] = {"exclusiveMinimum": 0}


ROW: JsonValue = [[0, 0, 5, 13, 9, 1, 0, 0] for _ in range(8)]


class _Inputs(BaseModel):
    inputs: Any = Field(
        description="Rows as nested lists, each of the model's input shape; a single row may stand alone. For a model "
        "of several inputs, an object of such lists by the names of the inputs.",
        json_schema_extra={
            "anyOf": [{"type": "array", "items": {}}, {"type": "object", "additionalProperties": {"type": "array"}}]
        },
    )


class PassRequest(PassFields, _Inputs):
    """Rows, and how to run the passes."""


B = TypeVar("B", bound=BaseModel)


class PredictRequest(PassRequest):
    """Rows to predict, and the measures to return."""

    outputs: list[StrictStr] | None = Field(
        default=None, description="Measures by name. Absent or null: all measures of the model."
    )
    quantiles: list[Annotated[StrictFloat, Field(json_schema_extra=LEVEL)]] = Field(
        default=[], max_length=99, description="Levels of quantiles to return, strictly between 0 and 1."
    )
    samples: StrictBool = Field(default=False, description="Whether to return the outputs of every pass as well.")
    defer_above: dict[StrictStr, StrictFloat] | None = Field(
        default=None,
        description="Thresholds by measure. `defer` is true for a row if any number of a measure exceeds its "
        "threshold.",
        json_schema_extra=THRESHOLDS,
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": [ROW], "passes": 32, "seed": 0, "outputs": ["mean", "mutual_information"]}]
        }
    )


class ProvenanceFields(BaseModel):
    """What produced a response: enough to repeat it."""

    model: str
    version: int
    passes: int
    seed: int
    sampling: str
    masks: str
    branches: int
    noise: int = NOISE_VERSION


class PredictResponse(ProvenanceFields):
    """An array for each measure, rows first."""

    labels: list[str] | None = Field(default=None, description="Names of the outputs: classes, or labels.")
    quantiles: list[float] | None = Field(
        default=None, description="The levels of outputs.quantiles, [rows, levels, positions …, outputs]."
    )
    defer_above: dict[str, float] | None = Field(
        default=None, description="The thresholds of the request, by exact names of measures."
    )
    defer: list[bool] | None = Field(default=None, description="Whether a human should decide, for each row.")
    outputs: dict[str, Any]


class ModelSummary(BaseModel):
    """One version of a model."""

    name: str
    version: int
    state: Literal["ready", "loading", "refused", "unloaded"]
    reason: str = ""


class ModelList(BaseModel):
    """Every version of every model, the newest first."""

    models: list[ModelSummary]


class InputDescription(BaseModel):
    """An input. `shape` is that of one row; a name in it stands for a free size."""

    name: str
    shape: list[int | str]
    dtype: str


class Bounds(BaseModel):
    """The sizes that a free dimension may have."""

    least: int
    most: int | None = Field(description="Null: no limit.")


class SiteDescription(BaseModel):
    """A place in the network where noise enters."""

    module: str
    kind: str
    rate: float | None = Field(description="Drop probability; null for other noise.")


class ModelDescription(BaseModel):
    """The description of a model."""

    name: str
    version: int
    versions: list[int]
    task: str
    output: str
    labels: list[str] | None
    inputs: list[InputDescription]
    free: dict[str, Bounds] = Field(description="Free dimensions by name. A name has the same size in every input.")
    result: str | None = Field(description="The output that is served, for a network of several.")
    positions: list[int | str] = Field(
        description="The axes of a measure between rows and outputs, as for pixels or tokens; empty for none."
    )
    measures: list[str]
    scores: list[str]
    passes: int
    seed: int
    sampling: str
    masks: str
    branches: int
    noise: int
    sites: list[SiteDescription]
    computed_by: str = Field(description="The backend: torch, or onnx for onnxruntime.")
    looped: str = Field(description="Why passes run one by one; empty if they are batched.")
    metrics: dict[str, float]
    digest: str
    example: Any = Field(
        description="A row that the model was published with; an object by name if it has several inputs."
    )


class Problem(BaseModel):
    """application/problem+json, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def parse_body(kind: type[B], value: Any) -> B:
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
        raise InvalidRequest('the body is not a JSON object; send {"inputs": [...]}.')
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        known = ", ".join(kind.model_fields)
        raise InvalidRequest(f"{field}: {first['msg']}. The fields are {known}.") from error
