"""Computing a batch: queries with equal keys run as one, and the result is cut apart again."""

import time
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from dropout_core.acquire.need import EMBEDDINGS
from dropout_core.engine.embedding import embeddings
from dropout_core.errors import NonFiniteOutput
from dropout_core.graph.inputs import NamedTensors
from mcdrop.inference.query import EmbeddingQuery, Query
from mcdrop.inference.result import Result, estimate_arrays, query_outputs
from mcdrop.inference.scheduler import Slice
from mcdrop_models.loading.predictor import Predictor, finite_rows

# Measures recorded for drift monitoring on every request. A shift in their distribution indicates one in the inputs.
_MONITORED = ("mutual_information", "predictive_entropy", "std")


def batch_key(query: Query | EmbeddingQuery) -> Hashable:
    """Return a key that is equal for queries that may run as one.

    Args:
        query: A query.

    Returns:
        A key that is equal for queries that may run as one.
    """
    model = id(query.predictor)  # two loads of a version are two models; the query keeps its own alive
    shapes = tuple((name, rows.shape[1:], rows.dtype) for name, rows in sorted(query.inputs.items()))
    if isinstance(query, EmbeddingQuery):
        return model, shapes
    options = query.options
    tolerance = tuple(sorted(options.tolerance.items())) if options.tolerance is not None else None
    passes = (options.passes, options.noise_key, tolerance, options.min_passes)
    return model, shapes, passes, query.quantiles, query.samples


def run_batch(batch: Sequence[Slice]) -> list[Result | NonFiniteOutput]:
    """Compute a batch.

    Args:
        batch: Slices of tickets whose queries have equal keys.

    Returns:
        The result of each slice, or an error if one of its rows is not finite.
    """
    queries: list[Query | EmbeddingQuery] = [one.ticket.query for one in batch]
    predictor = queries[0].predictor
    inputs = {
        name: _join([query.inputs[name][one.start : one.stop] for query, one in zip(queries, batch, strict=True)])
        for name in queries[0].inputs
    }
    places = [_places(query, one) for query, one in zip(queries, batch, strict=True)]
    estimated = [query for query in queries if isinstance(query, Query)]
    finite, results = _estimates(estimated, inputs, places) if estimated else _embeddings(predictor, inputs, places)
    checked: list[Result | NonFiniteOutput] = []
    for where, mask, result in zip(places, finite.split([one.rows for one in batch]), results, strict=True):
        checked.append(result if bool(mask.all()) else predictor.non_finite_error(int(where[~mask][0])))
    return checked


def _estimates(queries: Sequence[Query], inputs: NamedTensors, places: Sequence[Tensor]) -> tuple[Tensor, list[Result]]:
    """Return which rows are finite, bool [B], and the result of each query, whose rows are consecutive."""
    first = queries[0]
    own_places = torch.cat(list(places)) if first.options.masks == "independent" else None
    estimate = first.predictor.estimate(inputs, first.options, first.keeps_draws, own_places)
    monitored = tuple(name for name in _MONITORED if name in estimate.measures)
    names = tuple(dict.fromkeys(name for query in queries for name in (*query.needed, *monitored)))
    arrays = estimate_arrays(estimate, names, first.quantiles, samples=first.samples)
    results = []
    for query, rows in zip(queries, _row_ranges(places), strict=True):
        own = {name: array[rows] for name, array in arrays.items()}
        results.append(Result(query_outputs(query, own), {name: own[name] for name in monitored}, estimate.prefix_s))
    return finite_rows(estimate).cpu(), results


def _embeddings(predictor: Predictor, inputs: NamedTensors, places: Sequence[Tensor]) -> tuple[Tensor, list[Result]]:
    """As `_estimates`, for embeddings."""
    program = predictor.program
    began = time.perf_counter()
    found = embeddings(program.graph, program.weights, {name: x.to(program.device) for name, x in inputs.items()}).cpu()
    seconds = time.perf_counter() - began
    results = [Result({EMBEDDINGS: found[rows].numpy()}, {}, seconds) for rows in _row_ranges(places)]
    return found.isfinite().all(1), results


def _places(query: Query | EmbeddingQuery, one: Slice) -> Tensor:
    """Return the positions of a slice's rows in their request."""
    return torch.arange(one.start, one.stop) if query.places is None else query.places[one.start : one.stop]


def _row_ranges(places: Sequence[Tensor]) -> Iterator[slice]:
    start = 0
    for where in places:
        yield slice(start, start + len(where))
        start += len(where)


def _join(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))
