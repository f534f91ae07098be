"""What the OpenAPI document says of numbers that `service.query` checks, which knows what this server runs."""

from pydantic import JsonValue

from dropout_core.mc.precision import ERRORS
from dropout_core.mc.scheme import BRANCHES
from dropout_core.noise import MAX_SEED

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
