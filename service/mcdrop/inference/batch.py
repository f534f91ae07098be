"""Queries of one key as one run of the engine, and the answers cut apart again."""

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropout_core.acquire.need import EMBEDDINGS
from dropout_core.engine.embedding import embeddings
from dropout_core.errors import NonFiniteOutput
from dropout_core.graph.inputs import NamedTensors
from mcdrop.inference.catalogue import LoadedModel
from mcdrop.inference.query import EmbeddingQuery, Query, estimate_arrays, query_outputs
from mcdrop.inference.scheduler import Slice
from mcdrop.wire.npy import Array
from mcdrop_models.loading.predictor import Predictor, finite_rows

# What is watched of every answer, asked for or not, where a model has it: a change of it is a change of the rows.
_WATCHED = ("mutual_information", "predictive_entropy", "std")


@dataclass(frozen=True)
class Work:
    """A question to a model."""

    model: LoadedModel
    query: Query | EmbeddingQuery


@dataclass(frozen=True)
class Result:
    """An answer to some rows: measures by name, rows first, and what is watched. prefix_s: of the whole batch."""

    measures: Mapping[str, Array]
    watched: Mapping[str, Array]
    prefix_s: float


def batch_key(work: Work) -> Hashable:
    """Queries of equal keys may be run as one."""
    query = work.query
    shapes = tuple((name, rows.shape[1:], rows.dtype) for name, rows in sorted(query.inputs.items()))
    if isinstance(query, EmbeddingQuery):
        return work.model, shapes
    plan = query.plan
    tolerance = tuple(sorted(plan.tolerance.items())) if plan.tolerance is not None else None
    passes = (plan.passes, plan.noise_key, tolerance, plan.min_passes)
    return work.model, shapes, passes, query.quantiles, query.samples


def run_batch(batch: Sequence[Slice]) -> list[Result | NonFiniteOutput]:
    """The answer to each slice of a batch, whose tickets hold Work of one key."""
    works: list[Work] = [one.ticket.work for one in batch]
    predictor = works[0].model.predictor
    inputs = {
        name: _joined([work.query.inputs[name][one.start : one.stop] for work, one in zip(works, batch, strict=True)])
        for name in works[0].query.inputs
    }
    places = [_places(work.query, one) for work, one in zip(works, batch, strict=True)]
    queries = [work.query for work in works if isinstance(work.query, Query)]
    finite, results = (
        _estimates(predictor, queries, inputs, places) if queries else _embeddings(predictor, inputs, places)
    )
    answers: list[Result | NonFiniteOutput] = []
    for where, mask, result in zip(places, finite.split([one.rows for one in batch]), results, strict=True):
        whole = bool(mask.all())
        answers.append(result if whole else predictor.non_finite_error(int(where[~mask][0])))
    return answers


def _estimates(
    predictor: Predictor, queries: Sequence[Query], inputs: NamedTensors, places: Sequence[Tensor]
) -> tuple[Tensor, list[Result]]:
    """Which rows are finite, and the answers to the queries, whose rows stand behind each other."""
    first = queries[0]
    own = torch.cat(list(places)) if first.plan.masks == "independent" else None
    estimate = predictor.estimate(inputs, first.plan, first.keeps_draws, own)
    watched = tuple(name for name in _WATCHED if name in estimate.measures)
    names = tuple(dict.fromkeys(name for query in queries for name in (*query.needed, *watched)))
    arrays = estimate_arrays(estimate, names, first.quantiles, samples=first.samples)
    results = []
    for query, rows in zip(queries, _slices(places), strict=True):
        own_rows = {name: array[rows] for name, array in arrays.items()}
        results.append(
            Result(query_outputs(query, own_rows), {name: own_rows[name] for name in watched}, estimate.prefix_s)
        )
    return finite_rows(estimate).cpu(), results


def _embeddings(predictor: Predictor, inputs: NamedTensors, places: Sequence[Tensor]) -> tuple[Tensor, list[Result]]:
    """As `_estimates`, of where the network puts the rows."""
    program = predictor.program
    began = time.perf_counter()
    found = embeddings(program.graph, program.weights, {name: x.to(program.device) for name, x in inputs.items()}).cpu()
    seconds = time.perf_counter() - began
    results = [Result({EMBEDDINGS: found[rows].numpy()}, {}, seconds) for rows in _slices(places)]
    return found.isfinite().all(1), results


def _places(query: Query | EmbeddingQuery, one: Slice) -> Tensor:
    """Where the rows of a slice stand in their request."""
    return torch.arange(one.start, one.stop) if query.places is None else query.places[one.start : one.stop]


def _slices(places: Sequence[Tensor]) -> Iterator[slice]:
    start = 0
    for where in places:
        yield slice(start, start + len(where))
        start += len(where)


def concatenate(results: Sequence[Result]) -> Result:
    """The answers to consecutive rows as one."""
    if len(results) == 1:
        return results[0]
    measures, watched = (_stacked([getattr(one, field) for one in results]) for field in ("measures", "watched"))
    return Result(measures, watched, sum(one.prefix_s for one in results))


def _stacked(arrays: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    return {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))
