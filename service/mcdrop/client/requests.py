"""What is sent. Rows as numpy writes them, and all else in the query of the address."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropout_core.acquire.pointwise import Reduction
from dropout_core.acquire.vocabulary import Selector
from dropout_core.errors import InvalidInput
from mcdrop.client.retry import Patience
from mcdrop.http.media_types import JSON, NDJSON, NPY, NPZ
from mcdrop.wire.npy import write_npy, write_npz

Inputs = ArrayLike | Mapping[str, ArrayLike]


class RunSaid(TypedDict, total=False):
    """What may be said of a run; what is not said, or None, is as the bundle says.

    version: of the model; the newest. tolerance: stop a row once the standard error of its every mean is at most this,
    or of the measures named; then passes is the most a row may take, and a prediction has passes_used and
    standard_error. min_passes: the fewest such a row takes. sampling, masks, branches: see docs/engine.md.
    """

    version: int | None
    passes: int | None
    seed: int | None
    tolerance: float | Mapping[str, float] | None
    min_passes: int | None
    sampling: str | None
    masks: str | None
    branches: int | None


class PredictSaid(RunSaid, total=False):
    """And of a prediction. outputs: measures by name; all there are. quantiles: levels. samples: the passes as well.

    defer_above: thresholds by measure, above any of which a row is marked for a human.
    """

    outputs: Sequence[str] | None
    quantiles: Sequence[float]
    samples: bool
    defer_above: Mapping[str, float] | None


class RankSaid(RunSaid, total=False):
    """And of a ranking; docs/oracle.md says what scores and selectors there are, and what belongs to which.

    k: how many rows. ids: names of the rows, one for each. exclude: rows never chosen, by id, or by number where there
    are no ids. labelled, targets: as inputs. costs: of the label of each row. groups: of each row, or
    "predicted_class"; quotas: how many rows of a group at most, or of each by name.
    """

    k: int
    score: str | None
    selector: Selector | None
    beta: float | None
    deviations: float | None
    candidates: int | None
    num_samples: int | None
    reduction: Reduction | None
    fraction: float | None
    labelled: Inputs | None
    targets: Inputs | None
    ids: Sequence[str | int] | None
    exclude: Sequence[str | int] | None
    costs: ArrayLike | None
    groups: Sequence[str | int] | Literal["predicted_class"] | None
    quotas: Mapping[Any, int] | int | None


@dataclass(frozen=True)
class Ask:
    """A request. accept: the form of its answer."""

    method: str
    path: str
    accept: str = JSON
    query: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    content_type: str | None = None


def predict_ask(name: str, inputs: Inputs, said: PredictSaid) -> Ask:
    """Ask for the measures of rows, all at once. Raises InvalidInput, or TypeError for what cannot be said."""
    return _asked("predict", name, inputs, NPZ, _checked(said, PredictSaid))


def stream_ask(name: str, inputs: Inputs, said: PredictSaid) -> Ask:
    """Ask for the measures of rows, as they are computed. Raises as `predict_ask`."""
    return _asked("predict", name, inputs, NDJSON, _checked(said, PredictSaid))


def rank_ask(name: str, inputs: Inputs, said: RankSaid) -> Ask:
    """Ask for the rows to label next; names of rows and groups are sent as numbers. Raises as `predict_ask`."""
    fields = _checked(said, RankSaid)
    ids = fields.pop("ids", None)
    if ids is not None:
        _one_for_each(ids, inputs)
    members = _beside(fields, ids)
    if not members:
        return _asked("rank", name, inputs, NPZ, fields)
    return _asked("rank", name, {**_members("inputs", inputs), **members}, NPZ, fields)


def model_ask(name: str, version: int | None = None) -> Ask:
    """Ask what a model is, or a version of it."""
    return Ask("GET", f"/v1/models/{quote(name, safe='')}{'' if version is None else f'/versions/{version}'}")


MODELS = Ask("GET", "/v1/models")
READY = Ask("GET", "/healthz/ready")


def _asked(verb: str, name: str, inputs: Inputs, accept: str, fields: dict[str, Any]) -> Ask:
    version = fields.pop("version", None)
    pinned = "" if version is None else f"/versions/{version}"
    several = isinstance(inputs, Mapping)
    return Ask(
        method="POST",
        path=f"/v1/models/{quote(name, safe='')}{pinned}/{verb}",
        accept=accept,
        query=tuple(_query(fields)),
        content=write_npz({key: _numbers(rows) for key, rows in inputs.items()})
        if isinstance(inputs, Mapping)
        else write_npy(_numbers(inputs)),
        content_type=NPZ if several else NPY,
    )


def _members(field: str, rows: Inputs) -> dict[str, ArrayLike]:
    """Rows as members of a .npz: each input's behind a dot."""
    return {f"{field}.{name}": one for name, one in rows.items()} if isinstance(rows, Mapping) else {field: rows}


def _beside(fields: dict[str, Any], ids: Sequence[str | int] | None) -> dict[str, ArrayLike]:
    """The members that stand beside the pool's, taken out of the fields. Raises InvalidInput."""
    members: dict[str, ArrayLike] = {}
    for field in ("labelled", "targets"):
        if field in fields:
            members |= _members(field, fields.pop(field))
    if "costs" in fields:
        members["costs"] = fields.pop("costs")
    if "exclude" in fields:
        members["exclude"] = np.asarray(_numbered(fields.pop("exclude"), ids), dtype=np.int64)
    if not isinstance(fields.get("groups", ""), str):
        members["groups"] = _coded(fields)
    return members


def _numbered(exclude: Sequence[str | int], ids: Sequence[str | int] | None) -> list[Any]:
    """The numbers of the rows that are out."""
    if ids is None:
        return list(exclude)
    unknown = set(exclude).difference(ids)
    if unknown:
        raise InvalidInput(f"exclude has {unknown.pop()!r}, which is none of the ids; give ids of rows.")
    out = set(exclude)
    return [row for row, name in enumerate(ids) if name in out]


def _coded(fields: dict[str, Any]) -> NDArray[Any]:
    """The groups as numbers, and the quotas by those."""
    codes: dict[Any, int] = {}
    found = [codes.setdefault(group, len(codes)) for group in np.asarray(fields.pop("groups")).tolist()]
    quotas = fields.get("quotas")
    if isinstance(quotas, Mapping):
        fields["quotas"] = {str(codes.setdefault(group, len(codes))): most for group, most in quotas.items()}
    return np.asarray(found, dtype=np.int64)


def _checked(said: Mapping[str, Any], known: type) -> dict[str, Any]:
    """What was said, less what is None. Python checks no names of arguments that come as a TypedDict."""
    unknown = said.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(f"there is no argument {min(unknown)!r}; there are {', '.join(known.__annotations__)}.")
    return {name: value for name, value in said.items() if value is not None}


def _query(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields as the query of an address: JSON, but for texts; a list is repeated, and an empty one stands alone."""
    for name, value in fields.items():
        if name in {"outputs", "quantiles"}:
            yield from [(name, _text(one)) for one in value] or [(name, "")]
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has in the place of a number of numpy's, or of a mapping."""
    return dict(value) if isinstance(value, Mapping) else value.item()


def _numbers(rows: ArrayLike) -> NDArray[Any]:
    """Rows as an array of numbers. Raises InvalidInput."""
    try:
        found = np.asarray(rows)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"the rows cannot be read as an array: {error}.") from error
    if found.dtype.kind not in "iufb":
        raise InvalidInput(f"the rows hold {found.dtype}; give whole numbers, floats, or true and false.")
    return found


def _one_for_each(ids: Sequence[str | int], inputs: Inputs) -> None:
    """Refuse names that are not as many as rows. They are not sent: rows come back by number."""
    first = next(iter(inputs.values()), ()) if isinstance(inputs, Mapping) else inputs
    rows = np.shape(_numbers(first))[:1]
    if rows != (len(ids),):
        raise InvalidInput(f"there are {len(ids)} ids and {(*rows, 0)[0]} rows; give one id for each row, or none.")


def options(url: str, api_key: str | None) -> dict[str, Any]:
    """What a client of httpx is made of."""
    return {"base_url": url, "headers": {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}}


def request_of(http: httpx.Client | httpx.AsyncClient, ask: Ask, patience: Patience) -> httpx.Request:
    """A question with the time that is left for it."""
    kind = {"Content-Type": ask.content_type} if ask.content_type else {}
    return http.build_request(
        ask.method,
        ask.path,
        params=ask.query or None,
        content=ask.content,
        headers={"Accept": ask.accept, **kind, **patience.headers},
        timeout=patience.timeout_s,
    )
