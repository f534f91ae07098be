"""Encoding the results of /v1: the measures and their provenance."""

from collections.abc import Iterator, Mapping

import orjson

from mcdrop.http.media_types import NPZ
from mcdrop.inference.provenance import DEFER, Provenance
from mcdrop.inference.query import Query
from mcdrop.wire.json import dump_json
from mcdrop.wire.npy import Array, write_npz

_LINE = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def provenance_of(query: Query) -> Provenance:
    """Return the provenance of a query's result.

    Args:
        query: The query.

    Returns:
        The provenance of a query's result.
    """
    manifest, options = query.predictor.manifest, query.options
    return Provenance(
        model=manifest.name,
        version=query.predictor.version,
        passes=options.passes,
        seed=options.seed,
        sampling=options.sampling,
        masks=options.masks,
        branches=options.branches,
        noise=manifest.noise,
        labels=tuple(manifest.labels or ()),
        quantiles=query.quantiles,
        defer_above=query.defer_above,
    )


def encode(provenance: Provenance, measures: Mapping[str, Array], media_type: str) -> bytes:
    """Return the response to a predict request as JSON or .npz.

    Args:
        provenance: What produced the measures.
        measures: Arrays by measure, rows first.
        media_type: The media type of the response.

    Returns:
        The response to a predict request as JSON or .npz.
    """
    if media_type == NPZ:
        return write_npz({**measures, **provenance.members})
    outputs = dict(measures)
    deferred = {"defer_above": provenance.defer_above, DEFER: outputs.pop(DEFER)} if provenance.defer_above else {}
    labels = {"labels": provenance.labels} if provenance.labels else {}
    levels = {"quantiles": provenance.quantiles} if provenance.quantiles else {}
    return dump_json({**provenance.facts, **labels, **levels, **deferred, "outputs": outputs})


def encode_lines(start: int, measures: Mapping[str, Array]) -> bytes:
    """Return rows as lines of JSON: an object with the number of the row and each of its measures.

    Args:
        start: The number of the first row.
        measures: Arrays by measure, rows first.

    Returns:
        Rows as lines of JSON: an object with the number of the row and each of its measures.
    """
    return b"".join(_lines(start, measures))


def _lines(start: int, measures: Mapping[str, Array]) -> Iterator[bytes]:
    for row, values in enumerate(zip(*measures.values(), strict=True), start):
        yield orjson.dumps({"row": row, **dict(zip(measures, values, strict=True))}, option=_LINE)
