"""The wire names of /v1. Tensors are left as they came: `mcdrop.inference.inputs` reads them."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from dropout_core.engine.options import BRANCHES
from dropout_core.measures.precision import ERRORS
from dropout_core.noise.limits import MAX_SEED
from dropout_core.noise.philox import VERSION as NOISE_VERSION
from mcdrop.errors import InvalidRequest

PASSES: dict[str, JsonValue] = {"minimum": 1}
MIN_PASSES: dict[str, JsonValue] = {"minimum": 2}
SEED: dict[str, JsonValue] = {"minimum": 0, "maximum": MAX_SEED}
BRANCHING: dict[str, JsonValue] = {"enum": [*BRANCHES, None]}
TOLERANCE: dict[str, JsonValue] = {"exclusiveMinimum": 0, "minProperties": 1, "propertyNames": {"enum": [*ERRORS]}}
THRESHOLDS: dict[str, JsonValue] = {"minProperties": 1}
LEVEL: dict[str, JsonValue] = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
SHARPNESS: dict[str, JsonValue] = {"minimum": 0}
AT_LEAST_ONE: dict[str, JsonValue] = {"minimum": 1}
PART: dict[str, JsonValue] = {"exclusiveMinimum": 0, "maximum": 1}
COST: dict[str, JsonValue] = {"exclusiveMinimum": 0}


ROW: JsonValue = [[0, 0, 5, 13, 9, 1, 0, 0] for _ in range(8)]


class PassRequest(BaseModel):
    """Rows, and how to run them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: Any = Field(
        description="Rows as nested lists, each of the model's input shape; a single row may stand alone. For a model "
        "of several inputs an object of such lists, by the inputs' names.",
        json_schema_extra={
            "anyOf": [{"type": "array", "items": {}}, {"type": "object", "additionalProperties": {"type": "array"}}]
        },
    )
    passes: StrictInt | None = Field(
        default=None,
        description="Stochastic passes; absent or null: the bundle's own number.",
        json_schema_extra=PASSES,
    )
    seed: StrictInt | None = Field(
        default=None,
        description="Decides the masks; absent: the bundle's own; null: one is drawn and reported.",
        json_schema_extra=SEED,
    )
    sampling: Literal["balanced", "iid"] | None = Field(
        default=None, description="How masks of different passes relate; absent or null: as the bundle says."
    )
    masks: Literal["shared", "independent"] | None = Field(
        default=None, description="One sampled network for each pass, or one for each pass and row; as sampling."
    )
    branches: StrictInt | None = Field(
        default=None,
        description="Passes that share all noise but that of the last sites: 1, 2, 4, 8 or 16; as sampling.",
        json_schema_extra=BRANCHING,
    )
    tolerance: StrictFloat | dict[StrictStr, StrictFloat] | None = Field(
        default=None,
        description="Stop a row once the standard error of its every mean is at most this, or of the measures named: "
        "mean, mutual_information. passes is then the most a row may take.",
        json_schema_extra=TOLERANCE,
    )
    min_passes: StrictInt | None = Field(
        default=None, description="The fewest passes of a row that may stop early.", json_schema_extra=MIN_PASSES
    )


B = TypeVar("B", bound=BaseModel)


class PredictRequest(PassRequest):
    """Rows to predict, and what to say of them."""

    outputs: list[StrictStr] | None = Field(default=None, description="Measures by name; absent: all the model has.")
    quantiles: list[Annotated[StrictFloat, Field(json_schema_extra=LEVEL)]] = Field(
        default=[], max_length=99, description="Levels strictly between 0 and 1."
    )
    samples: StrictBool = Field(default=False, description="Return the passes themselves as well.")
    defer_above: dict[StrictStr, StrictFloat] | None = Field(
        default=None,
        description="Thresholds by measure: defer is true of a row with any number of such a measure above.",
        json_schema_extra=THRESHOLDS,
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": [ROW], "passes": 32, "seed": 0, "outputs": ["mean", "mutual_information"]}]
        }
    )


class ProvenanceFields(BaseModel):
    """What a run was: enough to repeat it."""

    model: str
    version: int
    passes: int
    seed: int
    sampling: str
    masks: str
    branches: int
    noise: int = NOISE_VERSION


class PredictResponse(ProvenanceFields):
    """One array for each measure, rows first."""

    labels: list[str] | None = Field(default=None, description="Names of the columns: classes, or labels.")
    quantiles: list[float] | None = Field(
        default=None, description="The levels of outputs.quantiles, [rows, levels, positions …, columns]."
    )
    defer_above: dict[str, float] | None = Field(default=None, description="As it was asked for, by exact names.")
    defer: list[bool] | None = Field(default=None, description="Whether a row is for a human: one for each.")
    outputs: dict[str, Any]


class ModelSummary(BaseModel):
    """One version of a model."""

    name: str
    version: int
    state: Literal["ready", "loading", "refused", "unloaded"]
    reason: str = ""


class ModelList(BaseModel):
    """Every version there is, newest first."""

    models: list[ModelSummary]


class InputDescription(BaseModel):
    """An input: `shape` is that of one row, of sizes and of names of free ones."""

    name: str
    shape: list[int | str]
    dtype: str


class Bounds(BaseModel):
    """The sizes that a free dimension may have."""

    least: int
    most: int | None = Field(description="Null: any.")


class SiteDescription(BaseModel):
    """One place where noise enters."""

    module: str
    kind: str
    rate: float | None = Field(description="The probability that a draw drops; null for noise without one.")


class ModelDescription(BaseModel):
    """What a caller needs to know of a model."""

    name: str
    version: int
    versions: list[int]
    task: str
    output: str
    labels: list[str] | None
    inputs: list[InputDescription]
    free: dict[str, Bounds] = Field(description="The dimensions that shapes name: a name is one size in every input.")
    result: str | None = Field(description="The output of the network that is served, where it has several.")
    positions: list[int | str] = Field(
        description="The axes of an answer between its rows and its outputs, as for pixels or tokens; empty for none."
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
    computed_by: str = Field(description="torch or onnx, which is onnxruntime.")
    looped: str = Field(description="Why passes run one by one; empty where they are batched.")
    metrics: dict[str, float]
    digest: str
    example: Any = Field(description="A row the model was published with; an object where there are several inputs.")


class Problem(BaseModel):
    """application/problem+json, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def parse_body(kind: type[B], value: Any) -> B:
    """A request of a kind from a JSON value. Raises InvalidRequest, naming the field."""
    if not isinstance(value, dict):
        raise InvalidRequest('the body is no JSON object; send {"inputs": [...]}.')
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        known = ", ".join(kind.model_fields)
        raise InvalidRequest(f"{field}: {first['msg']}. The fields are {known}.") from error
