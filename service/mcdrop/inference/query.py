"""A checked question to a model, and its answer as arrays. Nothing here knows HTTP."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any, cast

import numpy as np
import orjson
from torch import Tensor

from dropout_core.acquire.vocabulary import SCORES
from dropout_core.engine.options import DEFAULT_MOST_PASSES, PassOptions, PassOverrides
from dropout_core.errors import InvalidInput, UnknownMeasure
from dropout_core.estimate.estimate import Estimate
from dropout_core.graph.inputs import NamedTensors, inputs_by_name, sizes_of
from dropout_core.graph.program import ROWS
from dropout_core.measures.measures import OUTPUT_KINDS
from dropout_core.measures.precision import PRECISION
from dropout_core.noise.limits import MAX_SEED
from mcdrop.inference.provenance import DEFER
from mcdrop.wire.npy import Array
from mcdrop_models.bundle.manifest import Manifest
from mcdrop_models.loading.predictor import Predictor

_ALIASES = {"entropy": "predictive_entropy"}
# the largest integer that every JSON reader keeps exact
_MAX_DRAWN_SEED = 2**53


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for."""

    max_passes: int
    max_samples: int
    max_length: int


@dataclass(frozen=True)
class Query:
    """Rows by input, and what to say of them. measures: exact names, in the order wanted.

    defer_above: a row is marked where any number of such a measure lies above so much. places: int64 [B], where the
    rows stand in their request; None: they are all of it.
    """

    inputs: NamedTensors
    num_rows: int
    plan: PassOptions
    measures: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    samples: bool = False
    defer_above: Mapping[str, float] = field(default_factory=dict)
    places: Tensor | None = None

    @property
    def keeps_draws(self) -> bool:
        """Whether the passes themselves are needed."""
        return self.samples or bool(self.quantiles)

    @property
    def passes(self) -> int:
        """The most that a row takes."""
        return self.plan.passes

    @property
    def needed(self) -> tuple[str, ...]:
        """The measures it takes to answer."""
        return tuple(dict.fromkeys((*self.measures, *self.defer_above)))


@dataclass(frozen=True)
class EmbeddingQuery:
    """Rows by input, to be told where the network puts them: one run with the noise off, which costs a pass.

    places: as a Query's.
    """

    inputs: NamedTensors
    num_rows: int
    places: Tensor | None = None
    passes: int = field(default=1, init=False)


def model_measures(predictor: Predictor) -> tuple[str, ...]:
    """The measures a model has."""
    return tuple(OUTPUT_KINDS[predictor.manifest.output].measures)


def make_query(
    predictor: Predictor,
    inputs: Tensor | NamedTensors,
    limits: RequestLimits,
    *,
    overrides: PassOverrides | None = None,
    outputs: Sequence[str] | None = None,
    quantiles: Sequence[float] = (),
    samples: bool = False,
    defer_above: Mapping[str, float] | None = None,
) -> Query:
    """A Query, checked before any work is done. The bundle's options hold where `overrides` has none.

    inputs: by name; a tensor stands for the only one.
    """
    manifest, graph = predictor.manifest, predictor.program.graph
    plan = _pass_options(manifest, overrides or {}, limits)
    apart = [name for name, wanted in (("quantiles", bool(quantiles)), ("samples", samples)) if wanted]
    names = _names(predictor, plan, None if outputs is None else [name for name in outputs if name not in apart])
    deferring = _deferring(predictor, plan, defer_above or {})
    wrong = [level for level in quantiles if not 0.0 < level < 1.0]
    if wrong:
        raise InvalidInput(f"the quantile {wrong[0]} must lie strictly between 0 and 1.")
    rows = inputs_by_name(graph, inputs)
    sizes = sizes_of(graph, rows)
    predictor.check_indices(rows)
    predictor.engine.allowed(plan)
    for free in graph.free:
        if sizes[free.name] > limits.max_length:
            raise InvalidInput(
                f"the {free.name} is {sizes[free.name]}; this server takes up to {limits.max_length}. Cut the rows."
            )
    num_rows = sizes[ROWS]
    kept = max(plan.passes, len(quantiles)) * num_rows * manifest.num_outputs * prod(graph.positions_at(sizes))
    if (samples or quantiles) and kept > limits.max_samples:
        raise InvalidInput(
            f"samples and quantiles keep passes or levels · rows · positions · outputs = {kept} numbers; this server "
            f"keeps up to {limits.max_samples}. Ask for fewer passes, or send fewer rows at a time."
        )
    if (samples or quantiles) and plan.tolerance is not None:
        raise InvalidInput("samples and quantiles need as many passes for every row; ask for them without a tolerance.")
    return Query(rows, num_rows, plan, names, tuple(quantiles), samples, deferring)


def _names(predictor: Predictor, plan: PassOptions, outputs: Sequence[str] | None) -> tuple[str, ...]:
    """The measures to answer. Raises UnknownMeasure for those a model has not, as outputs or with a tolerance."""
    measures = model_measures(predictor)
    informed = "mutual_information" in measures
    known = (*measures, *(name for name in PRECISION if informed or not name.startswith("mutual_information")))
    by_default = (*measures, "passes_used", "standard_error") if plan.tolerance is not None else measures
    names = [_ALIASES.get(name, name) for name in (by_default if outputs is None else outputs)]
    unknown = [name for name in (*names, *(plan.tolerance or ())) if name not in known]
    if unknown:
        raise UnknownMeasure(f"{predictor.manifest.name} has no measure {unknown[0]!r}; it has {', '.join(known)}.")
    return tuple(dict.fromkeys(names))


def _pass_options(manifest: Manifest, overrides: PassOverrides, limits: RequestLimits) -> PassOptions:
    """Return the passes to run. Raises InvalidInput for passes that this server does not run."""
    most = overrides.get("passes")
    if most is None:
        tolerance = overrides.get("tolerance")
        most = manifest.passes if tolerance is None else min(DEFAULT_MOST_PASSES, limits.max_passes)
    if not 1 <= most <= limits.max_passes:
        raise InvalidInput(f"passes is {most}; this server runs 1 to {limits.max_passes}.")
    seed = overrides.get("seed")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise InvalidInput(f"the seed is {seed}; it must lie between 0 and 2^63 - 1, or be null to have one drawn.")
    overrides = overrides.copy()
    overrides["passes"] = most
    return manifest.pass_options.overridden(**overrides)


def example_row(predictor: Predictor) -> Any:
    """The first row a model was published with, as short JSON numbers: by name where a model has several inputs."""
    rows = {name: _short(values[0].cpu().numpy()) for name, values in predictor.probe.items()}
    return rows if len(rows) > 1 else next(iter(rows.values()))


def example_inputs(example: Any) -> Any:
    """The inputs of a request with an example's row alone."""
    return {name: [row] for name, row in example.items()} if isinstance(example, dict) else [example]


def draw_seed() -> int:
    """A seed for a caller who wants a new one."""
    return secrets.randbelow(_MAX_DRAWN_SEED)


def pass_overrides(fields: Any) -> PassOverrides:
    """Return the pass options that a request overrides.

    Args:
        fields: A parsed body with the fields of `PassOverrides`. A seed of null that was sent draws a new seed; an
            absent one keeps the bundle's.

    Returns:
        The overrides; an option that the request does not set is None.
    """
    overrides = {name: getattr(fields, name) for name in PassOverrides.__annotations__}
    if fields.seed is None and "seed" in fields.model_fields_set:
        overrides["seed"] = draw_seed()
    return cast("PassOverrides", overrides)


def run_query(predictor: Predictor, query: Query) -> Mapping[str, Array]:
    """The measures by name, rows first; quantiles [B, Q, *P, C] and samples [B, T, *P, C] where they were asked for."""
    estimate = predictor.predict(query.inputs, query.plan, query.keeps_draws)
    return query_outputs(query, estimate_arrays(estimate, query.needed, query.quantiles, samples=query.samples))


def query_outputs(query: Query, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Of arrays of the query's rows by name, those that it asks for, and DEFER: which rows are for a human."""
    wanted = (*query.measures, *(name for name in ("quantiles", "samples") if name in arrays))
    deferred = {DEFER: _deferred(query.defer_above, arrays)} if query.defer_above else {}
    return {**{name: arrays[name] for name in wanted}, **deferred}


def estimate_arrays(
    estimate: Estimate, measures: Sequence[str], quantiles: Sequence[float], *, samples: bool
) -> dict[str, Array]:
    """Measures of an estimate by name, rows first, and where they are wanted its quantiles and samples."""
    arrays = {name: _array(estimate.measure(name)) for name in measures}
    if quantiles:
        arrays["quantiles"] = _array(estimate.quantiles(quantiles).movedim(0, 1))
    if samples:
        arrays["samples"] = _array(estimate.samples.movedim(0, 1))
    return arrays


def _deferring(predictor: Predictor, plan: PassOptions, above: Mapping[str, float]) -> dict[str, float]:
    """The thresholds by exact names."""
    exact: dict[str, float] = {}
    for name, threshold in above.items():
        (measure,) = _names(predictor, plan, [name])
        if not isfinite(threshold):
            raise InvalidInput(f"defer_above has {threshold} for {name}; a finite number is wanted.")
        if measure in SCORES and SCORES[measure].sign < 0:
            raise InvalidInput(
                f"a small {measure} is the uncertain one; defer_above another, such as least_confidence."
            )
        if measure in exact:
            raise InvalidInput(f"defer_above names {measure} twice; give one threshold.")
        exact[measure] = threshold
    return exact


def _deferred(above: Mapping[str, float], arrays: Mapping[str, Array]) -> Array:
    """Which rows have any number above a threshold, bool [B]."""
    deferred = np.zeros(len(next(iter(arrays.values()))), np.bool_)
    for name, threshold in above.items():
        deferred |= (arrays[name] > threshold).any(axis=tuple(range(1, arrays[name].ndim)))
    return deferred


def _short(row: Array) -> Any:
    whole = row.astype(np.int64)
    shown = whole if row.dtype != np.bool_ and (whole == row).all() else row
    return orjson.loads(orjson.dumps(shown, option=orjson.OPT_SERIALIZE_NUMPY))


def _array(values: Tensor) -> Array:
    return np.ascontiguousarray(values.cpu().numpy())
