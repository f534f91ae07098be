"""A query: a validated question to a model. Nothing here knows HTTP."""

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
from dropout_core.graph.inputs import NamedTensors, inputs_by_name, sizes_of
from dropout_core.graph.program import ROWS
from dropout_core.measures.measures import OUTPUT_KINDS
from dropout_core.measures.precision import PRECISION
from dropout_core.noise.limits import MAX_SEED
from mcdrop.wire.npy import Array
from mcdrop_models.bundle.manifest import Manifest
from mcdrop_models.loading.predictor import Predictor

_ALIASES = {"entropy": "predictive_entropy"}
# The largest integer that every JSON reader keeps exact.
_MAX_DRAWN_SEED = 2**53


@dataclass(frozen=True)
class RequestLimits:
    """The limits of one request.

    Attributes:
        max_passes: The most passes.
        max_samples: The most numbers that samples and quantiles may keep.
        max_length: The largest size of a free dimension.
    """

    max_passes: int
    max_samples: int
    max_length: int


@dataclass(frozen=True)
class Query:
    """Rows, and the measures to estimate for them.

    Attributes:
        predictor: The model.
        inputs: Tensors [B, *F] by input, on the CPU.
        num_rows: The number of rows B.
        options: How to run the passes.
        measures: Exact names of measures, in the order of the response.
        quantiles: Levels strictly between 0 and 1.
        samples: Whether to return the outputs of every pass.
        defer_above: Thresholds by measure. A row is deferred if any number of such a measure exceeds its threshold.
        places: The position of each row in its request, int64 [B]; None if the rows are the whole request.
    """

    predictor: Predictor
    inputs: NamedTensors
    num_rows: int
    options: PassOptions
    measures: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    samples: bool = False
    defer_above: Mapping[str, float] = field(default_factory=dict)
    places: Tensor | None = None

    @staticmethod
    def of(
        predictor: Predictor,
        inputs: Tensor | NamedTensors,
        limits: RequestLimits,
        *,
        overrides: PassOverrides | None = None,
        outputs: Sequence[str] | None = None,
        quantiles: Sequence[float] = (),
        samples: bool = False,
        defer_above: Mapping[str, float] | None = None,
    ) -> "Query":
        """Return a query, validated before any work is done.

        Args:
            predictor: The model.
            inputs: Tensors [B, *F] by input; a single tensor stands for the only input.
            limits: The limits of the server.
            overrides: Pass options that replace those of the bundle.
            outputs: Names of measures, and `quantiles` or `samples`; None for all measures of the model.
            quantiles: Levels strictly between 0 and 1.
            samples: Whether to return the outputs of every pass.
            defer_above: Thresholds by measure.

        Returns:
            A query, validated before any work is done.

        Raises:
            InvalidInput: The inputs do not fit the model, or an option or a limit is violated.
            UnknownMeasure: The model does not have one of the measures.
        """
        options = _pass_options(predictor.manifest, overrides or {}, limits)
        added = [name for name, present in (("quantiles", bool(quantiles)), ("samples", samples)) if present]
        names = _names(predictor, options, None if outputs is None else [name for name in outputs if name not in added])
        thresholds = _thresholds(predictor, options, defer_above or {})
        for level in quantiles:
            if not 0.0 < level < 1.0:
                raise InvalidInput(f"the quantile {level} must lie strictly between 0 and 1.")
        rows = inputs_by_name(predictor.program.graph, inputs)
        sizes = sizes_of(predictor.program.graph, rows)
        predictor.check_indices(rows)
        predictor.engine.allowed(options)
        _check_lengths(predictor, sizes, limits)
        query = Query(predictor, rows, sizes[ROWS], options, names, tuple(quantiles), samples, thresholds)
        if query.keeps_draws:
            _check_draws(query, sizes, limits)
        return query

    @property
    def keeps_draws(self) -> bool:
        """Whether the outputs of every pass are needed."""
        return self.samples or bool(self.quantiles)

    @property
    def passes(self) -> int:
        """The most passes of a row."""
        return self.options.passes

    @property
    def needed(self) -> tuple[str, ...]:
        """The measures to compute: those to return and those with a threshold."""
        return tuple(dict.fromkeys((*self.measures, *self.defer_above)))


@dataclass(frozen=True)
class EmbeddingQuery:
    """Rows whose embeddings are needed: one run without noise, which costs a pass.

    Attributes:
        predictor: The model.
        inputs: Tensors [B, *F] by input, on the CPU.
        num_rows: The number of rows B.
        places: As in a Query.
    """

    predictor: Predictor
    inputs: NamedTensors
    num_rows: int
    places: Tensor | None = None
    passes: int = field(default=1, init=False)


def model_measures(predictor: Predictor) -> tuple[str, ...]:
    """Return the measures of a model.

    Args:
        predictor: The model.

    Returns:
        The measures of a model.
    """
    return tuple(OUTPUT_KINDS[predictor.manifest.output].measures)


def example_row(predictor: Predictor) -> Any:
    """Return the first row that a model was published with, as short JSON numbers.

    Args:
        predictor: The model.

    Returns:
        Nested lists, or an object of them by name for a model of several inputs.
    """
    rows = {name: _short(values[0].cpu().numpy()) for name, values in predictor.probe.items()}
    return rows if len(rows) > 1 else next(iter(rows.values()))


def example_inputs(example: Any) -> Any:
    """Return the `inputs` of a request that has an example row alone.

    Args:
        example: A row as `example_row` returns it.

    Returns:
        The `inputs` of a request that has an example row alone.
    """
    return {name: [row] for name, row in example.items()} if isinstance(example, dict) else [example]


def draw_seed() -> int:
    """Return a random seed, for a client that sends null."""
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


def _names(predictor: Predictor, options: PassOptions, outputs: Sequence[str] | None) -> tuple[str, ...]:
    """Return the exact names of measures. Raises UnknownMeasure for one that the model does not have."""
    measures = model_measures(predictor)
    has_information = "mutual_information" in measures
    known = (*measures, *(name for name in PRECISION if has_information or not name.startswith("mutual_information")))
    by_default = (*measures, "passes_used", "standard_error") if options.tolerance is not None else measures
    names = [_ALIASES.get(name, name) for name in (by_default if outputs is None else outputs)]
    unknown = [name for name in (*names, *(options.tolerance or ())) if name not in known]
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


def _thresholds(predictor: Predictor, options: PassOptions, above: Mapping[str, float]) -> dict[str, float]:
    """Return the thresholds by exact names of measures."""
    exact: dict[str, float] = {}
    for name, threshold in above.items():
        (measure,) = _names(predictor, options, [name])
        if not isfinite(threshold):
            raise InvalidInput(f"the defer_above of {name} is {threshold}; send a finite number.")
        if measure in SCORES and SCORES[measure].sign < 0:
            raise InvalidInput(
                f"a small {measure} means high uncertainty, so it cannot be used in defer_above. Use another measure, "
                "such as least_confidence."
            )
        if measure in exact:
            raise InvalidInput(f"defer_above names {measure} twice; send one threshold.")
        exact[measure] = threshold
    return exact


def _check_lengths(predictor: Predictor, sizes: Mapping[str, int], limits: RequestLimits) -> None:
    for free in predictor.program.graph.free:
        if sizes[free.name] > limits.max_length:
            raise InvalidInput(
                f"the {free.name} is {sizes[free.name]}; this server takes up to {limits.max_length}. Cut the rows."
            )


def _check_draws(query: Query, sizes: Mapping[str, int], limits: RequestLimits) -> None:
    """Refuse samples and quantiles that keep too many numbers, or that need equal numbers of passes."""
    positions = prod(query.predictor.program.graph.positions_at(sizes))
    per_row = max(query.passes, len(query.quantiles)) * positions * query.predictor.manifest.num_outputs
    if per_row * query.num_rows > limits.max_samples:
        raise InvalidInput(
            f"samples or quantiles would keep {per_row * query.num_rows} numbers (passes or levels × rows × positions "
            f"× outputs); the limit is {limits.max_samples}. Request fewer passes, or send fewer rows at a time."
        )
    if query.options.tolerance is not None:
        raise InvalidInput(
            "samples and quantiles need the same number of passes for every row, so they cannot be combined with a "
            "tolerance."
        )


def _short(row: Array) -> Any:
    """Return a row as JSON values, whole numbers without a fraction."""
    whole = row.astype(np.int64)
    shown = whole if row.dtype != np.bool_ and (whole == row).all() else row
    return orjson.loads(orjson.dumps(shown, option=orjson.OPT_SERIALIZE_NUMPY))
