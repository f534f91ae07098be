"""Answers of /v1 in each form: the measures, and what run they are of."""

from collections.abc import Iterator, Mapping

import orjson

from mcdrop.http.media_types import NPZ
from mcdrop.inference.provenance import DEFER, Provenance
from mcdrop.inference.query import Query
from mcdrop.wire.json import dump_json
from mcdrop.wire.npy import Array, write_npz
from mcdrop_models.loading.predictor import Predictor

_LINE = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def provenance_of(predictor: Predictor, query: Query) -> Provenance:
    """The run that a query makes of a model."""
    manifest, plan = predictor.manifest, query.plan
    return Provenance(
        model=manifest.name,
        version=predictor.version,
        passes=plan.passes,
        seed=plan.seed,
        sampling=plan.sampling,
        masks=plan.masks,
        branches=plan.branches,
        noise=manifest.noise,
        labels=tuple(manifest.labels or ()),
        quantiles=query.quantiles,
        defer_above=query.defer_above,
    )


def prediction(run: Provenance, measures: Mapping[str, Array], form: str) -> bytes:
    """An answer to a predict request as JSON or .npz."""
    if form == NPZ:
        return write_npz({**measures, **run.members})
    outputs = dict(measures)
    deferred = {"defer_above": run.defer_above, DEFER: outputs.pop(DEFER)} if run.defer_above else {}
    labels = {"labels": run.labels} if run.labels else {}
    levels = {"quantiles": run.quantiles} if run.quantiles else {}
    return dump_json({**run.facts, **labels, **levels, **deferred, "outputs": outputs})


def lines(start: int, measures: Mapping[str, Array]) -> bytes:
    """Rows as lines of JSON: {"row": its number, and every measure of it by name}. start: the number of the first."""
    return b"".join(_lines(start, measures))


def _lines(start: int, measures: Mapping[str, Array]) -> Iterator[bytes]:
    for row, values in enumerate(zip(*measures.values(), strict=True), start):
        yield orjson.dumps({"row": row, **dict(zip(measures, values, strict=True))}, option=_LINE)
