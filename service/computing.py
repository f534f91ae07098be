"""Queries of one key as one run of the engine, and the answers cut apart again."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropout_core.errors import NonFiniteOutput
from models.predictor import finite_rows
from service.batching.plan import Slice
from service.catalogue import Model
from service.query import Array, Query, arrays_of

# What is watched of every answer, asked for or not, where a model has it: a change of it is a change of the rows.
_WATCHED = ("mutual_information", "predictive_entropy", "std")


@dataclass(frozen=True)
class Work:
    """A question to a model."""

    model: Model
    query: Query


@dataclass(frozen=True)
class Result:
    """An answer to some rows: measures by name, rows first, and what is watched. prefix_s: of the whole batch."""

    measures: Mapping[str, Array]
    watched: Mapping[str, Array]
    prefix_s: float


def key_of(work: Work) -> Hashable:
    """Queries of equal keys may be run as one."""
    plan, query = work.query.plan, work.query
    tolerance = tuple(sorted(plan.tolerance.items())) if plan.tolerance is not None else None
    shapes = tuple((name, rows.shape[1:], rows.dtype) for name, rows in sorted(query.inputs.items()))
    passes = (plan.passes, plan.seed, plan.scheme, tolerance, plan.min_passes)
    return work.model, shapes, passes, query.quantiles, query.samples


def run(batch: Sequence[Slice]) -> list[Result | NonFiniteOutput]:
    """The answer to each slice of a batch, whose tickets hold Work of one key."""
    works: list[Work] = [one.ticket.work for one in batch]
    predictor, query = works[0].model.predictor, works[0].query
    inputs = {
        name: _joined([work.query.inputs[name][one.start : one.stop] for work, one in zip(works, batch, strict=True)])
        for name in query.inputs
    }
    places = None
    if query.plan.scheme.masks == "independent":
        places = torch.cat([torch.arange(one.start, one.stop) for one in batch])
    estimate = predictor.estimate(inputs, query.plan, query.keeps_draws, places)
    finite = finite_rows(estimate).cpu()
    watched = tuple(name for name in _WATCHED if name in estimate.measures)
    names = tuple(dict.fromkeys(name for work in works for name in (*work.query.measures, *watched)))
    arrays = arrays_of(estimate, names, query.quantiles, samples=query.samples)
    results: list[Result | NonFiniteOutput] = []
    offset = 0
    for work, one in zip(works, batch, strict=True):
        rows = slice(offset, offset + one.rows)
        offset += one.rows
        if not bool(finite[rows].all()):
            first = int((~finite[rows]).nonzero()[0])
            results.append(predictor.non_finite(one.start + first))
            continue
        wanted = (*work.query.measures, *(name for name in ("quantiles", "samples") if name in arrays))
        measures = {name: arrays[name][rows] for name in wanted}
        results.append(Result(measures, {name: arrays[name][rows] for name in watched}, estimate.prefix_s))
    return results


def joined(results: Sequence[Result]) -> Result:
    """The answers to consecutive rows as one."""
    if len(results) == 1:
        return results[0]
    measures, watched = (_stacked([getattr(one, field) for one in results]) for field in ("measures", "watched"))
    return Result(measures, watched, sum(one.prefix_s for one in results))


def _stacked(arrays: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    return {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}


def _joined(rows: Sequence[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))
