"""A checked question to a model, and its answer as arrays. Nothing here knows HTTP."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from torch import Tensor

from dropout_core.acquire.scores import Ranking, rank
from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.mc.estimate import Estimate
from dropout_core.mc.measures import KINDS
from dropout_core.noise import MAX_SEED
from models.predictor import Predictor

Array = NDArray[Any]
_ALIASES = {"entropy": "predictive_entropy"}
# the largest integer that every JSON reader keeps exact
_MAX_DRAWN_SEED = 2**53


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_passes: int
    max_samples: int


@dataclass(frozen=True)
class Query:
    """Rows, and what to say of them. measures: exact names, in the order wanted."""

    x: Tensor
    passes: int
    seed: int
    measures: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    samples: bool = False


def measures_of(predictor: Predictor) -> tuple[str, ...]:
    """The measures a model has."""
    return tuple(KINDS[predictor.manifest.output].measures)


def make_query(
    predictor: Predictor,
    x: Tensor,
    limits: Limits,
    *,
    passes: int | None = None,
    seed: int | None = None,
    outputs: Sequence[str] | None = None,
    quantiles: Sequence[float] = (),
    samples: bool = False,
) -> Query:
    """A Query, checked before any work is done. Where passes or seed are None the bundle's own are used."""
    manifest = predictor.manifest
    num_passes = manifest.passes if passes is None else passes
    if not 1 <= num_passes <= limits.max_passes:
        raise InvalidInput(f"passes is {num_passes}; this server runs 1 to {limits.max_passes}.")
    chosen = manifest.seed if seed is None else seed
    if not 0 <= chosen <= MAX_SEED:
        raise InvalidInput(f"the seed is {chosen}; it must lie between 0 and 2^63 - 1, or be null to have one drawn.")
    known = measures_of(predictor)
    asked_apart = [name for name, asked in (("quantiles", bool(quantiles)), ("samples", samples)) if asked]
    wanted = known if outputs is None else [name for name in outputs if name not in asked_apart]
    names = [_ALIASES.get(name, name) for name in wanted]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownMeasure(f"{manifest.name} has no measure {unknown[0]!r}; it has {', '.join(known)}.")
    wrong = [level for level in quantiles if not 0.0 < level < 1.0]
    if wrong:
        raise InvalidInput(f"the quantile {wrong[0]} must lie strictly between 0 and 1.")
    kept = max(num_passes, len(quantiles)) * len(x) * manifest.num_outputs
    if (samples or quantiles) and kept > limits.max_samples:
        raise InvalidInput(
            f"samples and quantiles keep passes or levels · rows · outputs = {kept} numbers; this server keeps up to "
            f"{limits.max_samples}. Ask for fewer passes, or send fewer rows at a time."
        )
    return Query(x, num_passes, chosen, tuple(dict.fromkeys(names)), tuple(quantiles), samples)


def example_of(predictor: Predictor) -> Any:
    """The first row a model was published with, as short JSON numbers."""
    row = predictor.probe[0].cpu().numpy()
    whole = row.astype(np.int64)
    return orjson.loads(orjson.dumps(whole if (whole == row).all() else row, option=orjson.OPT_SERIALIZE_NUMPY))


def draw_seed() -> int:
    """A seed for a caller who wants a new one."""
    return secrets.randbelow(_MAX_DRAWN_SEED)


def run_predict(predictor: Predictor, query: Query) -> Mapping[str, Array]:
    """The measures by name, rows first; quantiles [B, Q, C] and samples [B, T, C] where they were asked for."""
    keep = query.samples or bool(query.quantiles)
    estimate = predictor.predict(query.x, query.passes, query.seed, keep_draws=keep)
    answer = {name: _array(estimate.measure(name)) for name in query.measures}
    if query.quantiles:
        answer["quantiles"] = _array(estimate.quantiles(query.quantiles).movedim(0, 1))
    if query.samples:
        answer["samples"] = _array(estimate.samples.movedim(0, 1))
    return answer


def run_rank(predictor: Predictor, query: Query, score: str | None, k: int) -> tuple[str, Ranking]:
    """The score used, and the k rows to label first. Where none is named: mutual information, or variance."""
    known = measures_of(predictor)
    default = "mutual_information" if "mutual_information" in known else "variance"
    chosen = default if score is None else _ALIASES.get(score, score)

    def estimate() -> Estimate:
        return predictor.predict(query.x, query.passes, query.seed)

    return chosen, rank(chosen, len(query.x), k, query.seed, estimate, known)


def _array(values: Tensor) -> Array:
    return np.ascontiguousarray(values.cpu().numpy())
