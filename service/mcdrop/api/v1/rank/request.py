"""What a body asks of a pool, checked before anything waits to be computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, cast

import torch

from dropout_core.acquire.need import Need
from dropout_core.acquire.options import RankOptions
from dropout_core.acquire.vocabulary import EPIG, RANDOM
from dropout_core.engine.embedding import last_hidden
from dropout_core.engine.options import PassOptions, PassOverrides
from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import select_rows, sizes_of
from mcdrop.api.oip.decode import tensor_arrays
from mcdrop.api.v1.payload import Payload, field_value, merge_fields
from mcdrop.api.v1.rank.limits import chosen_groups, excluded_rows, refuse_too_many
from mcdrop.api.v1.rank.members import fields_of
from mcdrop.api.v1.rank.schemas import RankFrame, RankRequest
from mcdrop.api.v1.schemas import parse_body
from mcdrop.http.media_types import JSON
from mcdrop.inference.call import Call
from mcdrop.inference.inputs import to_inputs
from mcdrop.inference.query import EmbeddingQuery, Query, RequestLimits, pass_overrides
from mcdrop.wire.json import JsonParser
from mcdrop.wire.offload import offload
from mcdrop.wire.oip_frame import Frame
from mcdrop_models.loading.predictor import Predictor

_EMBEDDED = ("k_centre", "badge")
# of which a few numbers a row are made as they come
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class RankQuery:
    """What is asked, the rows it is about, by what a Need calls them, and the names of the pool's rows.

    sample_rows: rows whose passes may be held at once.
    """

    asked: RankOptions
    plan: PassOptions
    rows: Mapping[str, Query]
    ids: Sequence[str | int] | None
    sample_rows: int

    @property
    def runs(self) -> bool:
        """Whether the network is run at all."""
        return self.asked.score != RANDOM

    def queries(self, need: Need) -> Iterator[Query]:
        """What a Need takes: a query for each of the rows that are held at once."""
        whole = self.rows[need.of]
        rows = torch.arange(whole.num_rows) if need.rows is None else need.rows
        plan = self.plan if need.passes is None else replace(self.plan, passes=need.passes)
        size = self.sample_rows if need.samples else len(rows) if need.embeddings else _ROWS_AT_ONCE
        for some in rows.split(max(1, size)):
            yield replace(
                whole,
                inputs=select_rows(whole.inputs, some),
                num_rows=len(some),
                options=plan,
                measures=need.measures,
                samples=need.samples,
                places=some,
            )


def embedding_of(query: Query) -> EmbeddingQuery:
    """Where the network puts the rows of a query."""
    return EmbeddingQuery(query.predictor, query.inputs, query.num_rows, query.places)


async def read_rank_query(call: Call) -> RankQuery:
    """Read and decode the body of a rank request.

    Args:
        call: The call.

    Returns:
        The query.

    Raises:
        RequestError: The body cannot be read.
        InvalidInput: The query does not fit the model.
        UnknownMeasure: The model does not have one of the measures.
    """
    with call.phase("decode"):
        payload = await Payload.read(call, framed=True)
        work = partial(decode, payload, call.model.predictor, call.state.limits, call.state.json)
        return await offload(work, payload.decoding_cost)


def decode(payload: Payload, predictor: Predictor, limits: RequestLimits, parser: JsonParser) -> RankQuery:
    """Return the query that a payload describes.

    Args:
        payload: The body, and the fields of the query string.
        predictor: The model.
        limits: The limits of one request.
        parser: Parses the JSON.

    Returns:
        The query.
    """
    request = _request(predictor, payload, parser)
    overrides = pass_overrides(request)
    pool = _rows(predictor, request.inputs, limits, overrides)
    sides = {"labelled": request.labelled, "targets": request.targets}
    rows = {"pool": pool, **{of: _rows(predictor, x, limits, overrides) for of, x in sides.items() if x is not None}}
    if request.ids is not None and len(request.ids) != pool.num_rows:
        raise InvalidInput(
            f"there are {len(request.ids)} ids and {pool.num_rows} rows; send one id for each row, or none."
        )
    groups, quotas = chosen_groups(request.groups, request.quotas, predictor.manifest)
    asked = RankOptions(
        predictor.manifest.output,
        pool.num_rows,
        request.k,
        request.score,
        request.selector,
        pool.options.seed,
        beta=request.beta,
        deviations=request.deviations,
        candidates=request.candidates,
        num_samples=request.num_samples,
        reduction=request.reduction,
        fraction=request.fraction,
        exclude=excluded_rows(request.exclude, request.ids, pool.num_rows),
        costs=None if request.costs is None else torch.tensor(request.costs, dtype=torch.float64),
        groups=groups,
        quotas=quotas,
        num_labelled=rows["labelled"].num_rows if "labelled" in rows else 0,
        num_targets=rows["targets"].num_rows if "targets" in rows else 0,
        masks=pool.options.masks,
    )
    numbers = pool.options.passes * predictor.manifest.num_outputs * prod(_positions(predictor, pool))
    question = RankQuery(asked, pool.options, rows, request.ids, max(1, limits.max_samples // max(1, numbers)))
    _refuse_unanswerable(predictor, question)
    refuse_too_many(asked, pool.options.passes, numbers, limits.max_samples)
    return question


def _request(predictor: Predictor, payload: Payload, parser: JsonParser) -> RankRequest:
    """The fields of a request, wherever they stand; rows as arrays or as nested lists."""
    names = [spec.name for spec in predictor.manifest.inputs]
    if payload.media_type == JSON:
        return parse_body(RankRequest, payload.json(parser))
    if payload.frame is not None:
        return parse_body(RankRequest, merge_fields(_framed(payload.frame, names, parser), payload.fields))
    arrays = payload.arrays()
    if not isinstance(arrays, dict):
        if len(names) > 1:
            raise InvalidInput(f"the model takes {', '.join(names)}; send a .npz of them.")
        arrays = {"inputs": arrays}
    return parse_body(RankRequest, merge_fields(fields_of(arrays, names), payload.fields))


def _framed(frame: Frame, names: Sequence[str], parser: JsonParser) -> dict[str, Any]:
    """The fields of a frame: its tensors as members, its parameters as they are or as texts, as in an address."""
    framed = parse_body(RankFrame, parser.parse(frame.json))
    said = {
        name: field_value(name, value) if isinstance(value, str) else value for name, value in framed.parameters.items()
    }
    members = tensor_arrays(framed.inputs, frame.split([tensor.binary_size for tensor in framed.inputs]))
    return cast("dict[str, Any]", merge_fields(fields_of(members, names), said))


def _rows(predictor: Predictor, inputs: Any, limits: RequestLimits, overrides: PassOverrides) -> Query:
    return Query.of(predictor, to_inputs(inputs, predictor.manifest), limits, overrides=overrides, outputs=[])


def _positions(predictor: Predictor, pool: Query) -> Sequence[int]:
    graph = predictor.program.graph
    return graph.positions_at(sizes_of(graph, pool.inputs))


def _refuse_unanswerable(predictor: Predictor, question: RankQuery) -> None:
    """Refuse what the model, or the passes, could not answer in the end."""
    asked, plan = question.asked, question.plan
    if asked.selector in _EMBEDDED:
        last_hidden(predictor.program.graph)
    if predictor.manifest.positions and (asked.selector in ("badge", "batchbald") or asked.score == EPIG):
        raise InvalidInput(
            f"{asked.selector} is of classes, one for each row; {predictor.manifest.name} has them at each of its "
            "positions. Choose another selector with a reduction."
        )
    asked.check_tolerance(plan.tolerance)
