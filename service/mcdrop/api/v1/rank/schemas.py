"""The wire names of /rank. Rows are left as they came: `mcdrop.inference.inputs` reads them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictFloat, StrictInt, StrictStr

from dropout_core.acquire.pointwise import Reduction
from dropout_core.acquire.vocabulary import Selector
from mcdrop.api.oip.requests import InputTensor
from mcdrop.api.v1.schemas import AT_LEAST_ONE, COST, PART, ROW, SHARPNESS, PassRequest, ProvenanceFields

_AS_INPUTS: dict[str, JsonValue] = {"anyOf": [{"type": "array", "items": {}}, {"type": "object"}, {"type": "null"}]}


class RankRequest(PassRequest):
    """Rows of a pool, to find those a human should label next."""

    k: StrictInt = Field(default=10, ge=1, description="How many rows to return, in the order they are picked.")
    score: StrictStr | None = Field(
        default=None,
        description="One of the model's scores; absent: the task's first, or epig for batchbald of targets.",
    )
    selector: Selector = Field(default="top_k", description="How rows are picked by their score, or without one.")
    beta: StrictFloat | None = Field(
        default=None,
        description="Of power, softmax and softrank: a large one keeps to the best.",
        json_schema_extra=SHARPNESS,
    )
    deviations: StrictFloat | None = Field(
        default=None, description="Of upper_confidence_bound: how many are added.", json_schema_extra=SHARPNESS
    )
    candidates: StrictInt | None = Field(
        default=None,
        description="Of batchbald, k_centre and badge: how many rows are looked at, at least k.",
        json_schema_extra=AT_LEAST_ONE,
    )
    num_samples: StrictInt | None = Field(
        default=None,
        description="Of batchbald: how many configurations of labels are kept or drawn.",
        json_schema_extra=AT_LEAST_ONE,
    )
    reduction: Reduction | None = Field(
        default=None, description="How the numbers of a row, where it has several, become one; absent: mean."
    )
    fraction: StrictFloat | None = Field(
        default=None, description="Of top_fraction: the share of numbers whose mean is taken.", json_schema_extra=PART
    )
    labelled: Any = Field(
        default=None, description="Rows as inputs, from which k_centre keeps away.", json_schema_extra=_AS_INPUTS
    )
    targets: Any = Field(
        default=None, description="Rows as inputs, which epig asks about.", json_schema_extra=_AS_INPUTS
    )
    ids: list[StrictStr | StrictInt] | None = Field(
        default=None, description="The caller's names of the rows, one for each."
    )
    exclude: list[StrictStr | StrictInt] | None = Field(
        default=None, description="Rows never chosen: their ids, or where there are none their indices."
    )
    costs: list[Annotated[StrictFloat, Field(json_schema_extra=COST)]] | None = Field(
        default=None, description="What the label of each row costs: a score counts per cost."
    )
    groups: Literal["predicted_class"] | list[StrictStr | StrictInt] | None = Field(
        default=None, description="The group of each row, or that it is the class that the model predicts."
    )
    quotas: StrictInt | dict[StrictStr, StrictInt] | None = Field(
        default=None, description="At most how many rows of each group, or of those named; a class by label or number."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": [ROW, ROW], "k": 1, "score": "mutual_information", "ids": ["a", "b"]}]
        }
    )


class RankFrame(BaseModel):
    """A pool in the frame of the Open Inference Protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: list[InputTensor] = Field(min_length=1, max_length=1024, description="Named as the members of a .npz.")
    parameters: dict[str, Any] = Field(
        default={}, description="The other fields; lists and objects also as JSON texts."
    )


class RankResponse(ProvenanceFields):
    """Rows in the order they were picked. A random choice runs no passes."""

    digest: str = Field(description="Of the bundle: with the run and the request it decides the choice.")
    selector: str
    score: str | None = Field(default=None, description="Absent of k_centre and badge, which have none.")
    reduction: str | None = Field(default=None, description="How several numbers of a row became one.")
    considered: int = Field(description="How many rows the selector looked at.")
    saturated: bool | None = Field(
        default=None, description="Of batchbald: the picks use up what the passes can tell; make more passes."
    )
    indices: list[int]
    ids: list[str | int] | None = None
    scores: list[float] | None = Field(
        default=None, description="In the score's own sign; of batchbald the joint score up to and with each row."
    )
    shares: list[float] | None = Field(
        default=None, description="Of batchbald: how much of what the passes can tell is told, 0 to 1."
    )
    parts: dict[str, list[float]] = Field(
        description="Measures of the chosen rows: what their uncertainty is made of; empty where no network ran."
    )
