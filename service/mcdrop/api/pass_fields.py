"""The fields of `PassOptions` in requests. Both protocols read them from here, with the descriptions of the options."""

from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictFloat, StrictInt, StrictStr

from dropout_core.engine.options import BRANCHES, PassOptions, Sampling, Sharing
from dropout_core.measures.precision import ERRORS
from dropout_core.noise.limits import MAX_SEED

_DESCRIPTIONS = {option.name: str(option.metadata["description"]) for option in fields(PassOptions)}
_DEFAULT = "Absent or null: the bundle's own."
_TOLERANCE: dict[str, JsonValue] = {
    "exclusiveMinimum": 0,
    "minProperties": 1,
    "propertyNames": {"enum": [*ERRORS]},
}


def _option(name: str, default: str = _DEFAULT, **schema: JsonValue) -> Any:
    """Return the field of a pass option, with the option's own description."""
    return Field(default=None, description=f"{_DESCRIPTIONS[name]} {default}".strip(), json_schema_extra=schema or None)


class PassFields(BaseModel):
    """How to run the passes. What is absent is as the bundle says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    passes: StrictInt | None = _option("passes", minimum=1)
    seed: StrictInt | None = _option(
        "seed",
        "Absent: the bundle's own. Null: a random one, which the response reports.",
        minimum=0,
        maximum=MAX_SEED,
    )
    sampling: Sampling | None = _option("sampling")
    masks: Sharing | None = _option("masks")
    branches: StrictInt | None = _option("branches", enum=[*BRANCHES, None])
    tolerance: StrictFloat | dict[StrictStr, StrictFloat] | None = _option(
        "tolerance",
        "A number is for every mean; an object is by measure: mean, mutual_information.",
        **_TOLERANCE,
    )
    min_passes: StrictInt | None = _option("min_passes", "", minimum=2)
