"""A choice as an answer of /rank."""

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
    """The answer as JSON or .npz: there the parts are members of their own."""
    fields = _fields(predictor, question, found)
    if form != NPZ:
        return dump_json(fields)
    ids = {"ids": _ids(fields["ids"])} if "ids" in fields else {}
    parts = fields.pop("parts")
    return write_npz({**fields, **parts, **ids})


def _fields(predictor: Predictor, question: RankQuery, found: Ranking) -> dict[str, Any]:
    """What there is to say, by its names on the wire."""
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
    """Names as an array: whole numbers where all are and 64 bits hold them, texts otherwise."""
    found = np.asarray(ids)
    return found if found.dtype.kind in "iuU" else np.asarray([str(one) for one in ids], dtype=np.str_)
