"""Encode a ranking as the response of /rank."""

from typing import Any

import numpy as np

from dropout_core.acquire.choose import Ranking
from mcdrop.api.v1.predict.response import provenance_of
from mcdrop.api.v1.rank.request import RankQuery
from mcdrop.http.media_types import NPZ
from mcdrop.wire.json import dump_json
from mcdrop.wire.npy import Array, write_npz
from mcdrop_models.loading.predictor import Predictor


def ranking(predictor: Predictor, question: RankQuery, found: Ranking, form: str) -> bytes:
    """Encode a ranking as JSON or .npz; in .npz each part is a member of its own.

    Args:
        predictor: The model.
        question: The query.
        found: The ranking.
        form: Form of the response, JSON or NPZ.

    Returns:
        The body.
    """
    fields = _fields(predictor, question, found)
    if form != NPZ:
        return dump_json(fields)
    ids = {"ids": _ids(fields["ids"])} if "ids" in fields else {}
    parts = fields.pop("parts")
    return write_npz({**fields, **parts, **ids})


def _fields(predictor: Predictor, question: RankQuery, found: Ranking) -> dict[str, Any]:
    """Return the fields of the response, by wire name."""
    indices, ids, joint = found.indices.numpy(), question.ids, found.shares is not None
    fields = {
        **provenance_of(question.rows["pool"]).facts,
        "digest": predictor.manifest.digest,
        "selector": question.asked.selector,
        "score": found.score,
        "reduction": found.reduction,
        "considered": found.considered,
        "saturated": found.saturated if joint else None,
        "indices": indices,
        "ids": None if ids is None else [ids[index] for index in indices.tolist()],
        "scores": None if found.scores is None else found.scores.numpy(),
        "shares": None if found.shares is None else found.shares.numpy(),
        "parts": {name: values.numpy() for name, values in found.parts.items()},
    }
    if not question.runs:
        fields["passes"] = 0
    return {name: value for name, value in fields.items() if value is not None}


def _ids(ids: list[str | int]) -> Array:
    """Return ids as an array: int64 if all are integers that fit, otherwise text."""
    found = np.asarray(ids)
    return found if found.dtype.kind in "iuU" else np.asarray([str(one) for one in ids], dtype=np.str_)
