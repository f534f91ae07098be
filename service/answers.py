"""Answers of /v1 in each form: the measures, and what run they are of."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from models.predictor import Predictor
from service.arrays import write_npz
from service.codec import to_json
from service.forms import NPZ
from service.query import Array, Query
from service.run import Run

_LINE = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def run_of(predictor: Predictor, query: Query) -> Run:
    """The run that a query makes of a model."""
    manifest, plan = predictor.manifest, query.plan
    return Run(
        model=manifest.name,
        version=predictor.version,
        passes=plan.passes,
        seed=plan.seed,
        sampling=plan.scheme.sampling,
        masks=plan.scheme.masks,
        branches=plan.scheme.branches,
        noise=manifest.noise,
        labels=tuple(manifest.labels or ()),
        quantiles=query.quantiles,
    )


def prediction(run: Run, measures: Mapping[str, Array], form: str) -> bytes:
    """An answer to a predict request as JSON or .npz."""
    if form == NPZ:
        return write_npz({**measures, **run.members})
    labels = {"labels": run.labels} if run.labels else {}
    levels = {"quantiles": run.quantiles} if run.quantiles else {}
    return to_json({**run.facts, **labels, **levels, "outputs": measures})


def ranking(run: Run, ranked: Mapping[str, Any], form: str) -> bytes:
    """An answer to a rank request as JSON or .npz. ranked: its fields beside the run."""
    if form != NPZ:
        return to_json({**run.facts, **ranked})
    ids = {"ids": _ids(ranked["ids"])} if "ids" in ranked else {}
    return write_npz({**run.facts, **ranked, **ids})


def lines(start: int, measures: Mapping[str, Array]) -> bytes:
    """Rows as lines of JSON: {"row": its number, and every measure of it by name}. start: the number of the first."""
    return b"".join(_lines(start, measures))


def _lines(start: int, measures: Mapping[str, Array]) -> Iterator[bytes]:
    for row, values in enumerate(zip(*measures.values(), strict=True), start):
        yield orjson.dumps({"row": row, **dict(zip(measures, values, strict=True))}, option=_LINE)


def _ids(ids: list[str | int]) -> Array:
    """Names as an array: whole numbers where all are and 64 bits hold them, texts otherwise."""
    found = np.asarray(ids)
    return found if found.dtype.kind in "iuU" else np.asarray([str(one) for one in ids], dtype=np.str_)
