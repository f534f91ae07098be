"""Requests to a server. Rows travel as numpy writes them, all other fields in the query string."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropout_core.engine.options import PassOverrides
from dropout_core.errors import InvalidInput
from mcdrop.client.retry import RetryPolicy
from mcdrop.http.media_types import JSON, NDJSON, NPY, NPZ
from mcdrop.wire.npy import write_npy, write_npz

if TYPE_CHECKING:  # both bring torch
    from dropout_core.acquire.pointwise import Reduction
    from dropout_core.acquire.vocabulary import Selector

Inputs = ArrayLike | Mapping[str, ArrayLike]


class RunFields(PassOverrides, total=False):
    """Pass options of a request, and the version of the model (the newest by default)."""

    version: int | None


class PredictFields(RunFields, total=False):
    """Fields of a predict request. None, or an absent field, keeps the server's default.

    Attributes:
        outputs: Measures to return, by name; all of the model's by default.
        quantiles: Levels of quantiles to return.
        samples: Whether to return the prediction of every pass.
        defer_above: Thresholds by measure; a row above any of them is marked for a human.
    """

    outputs: Sequence[str] | None
    quantiles: Sequence[float]
    samples: bool
    defer_above: Mapping[str, float] | None


class RankFields(RunFields, total=False):
    """Fields of a rank request; see `RankOptions` for scores, selectors and their parameters.

    Attributes:
        k: Number of rows to choose.
        ids: A name for each row.
        exclude: Rows that are never chosen: ids, or row numbers if there are no ids.
        labelled: Rows that have labels already, as the inputs.
        targets: Rows from where the model will be used, as the inputs.
        costs: The cost of each label.
        groups: The group of each row, or "predicted_class".
        quotas: Most rows per group: one number, or one by group.
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
class ClientRequest:
    """A request, free of its transport.

    Attributes:
        method: HTTP method.
        path: Path of the URL.
        accept: Media type of the response.
        query: Fields of the query string.
        content: Body.
        content_type: Media type of the body.
    """

    method: str
    path: str
    accept: str = JSON
    query: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    content_type: str | None = None


def predict_request(name: str, inputs: Inputs, fields: PredictFields) -> ClientRequest:
    """Build a request for the measures of rows.

    Args:
        name: Name of the model.
        inputs: Rows, or rows by input.
        fields: Other fields of the request.

    Returns:
        The request.

    Raises:
        InvalidInput: The rows are not an array of numbers.
        TypeError: A field does not exist, or cannot be written as JSON.
    """
    return _rows_request("predict", name, inputs, NPZ, _given(fields, PredictFields))


def stream_request(name: str, inputs: Inputs, fields: PredictFields) -> ClientRequest:
    """Build a request for the measures of rows, row by row as they are computed.

    Args:
        name: Name of the model.
        inputs: Rows, or rows by input.
        fields: Other fields of the request.

    Returns:
        The request.

    Raises:
        InvalidInput: The rows are not an array of numbers.
        TypeError: A field does not exist, or cannot be written as JSON.
    """
    return _rows_request("predict", name, inputs, NDJSON, _given(fields, PredictFields))


def rank_request(name: str, inputs: Inputs, fields: RankFields) -> ClientRequest:
    """Build a request for the rows to label next. Names of rows and groups are sent as numbers.

    Args:
        name: Name of the model.
        inputs: Rows of the pool, or rows by input.
        fields: Other fields of the request.

    Returns:
        The request.

    Raises:
        InvalidInput: The rows are not an array of numbers, or ids and exclusions do not fit them.
        TypeError: A field does not exist, or cannot be written as JSON.
    """
    given = _given(fields, RankFields)
    ids = given.pop("ids", None)
    if ids is not None:
        _check_ids(ids, inputs)
    members = _pop_members(given, ids)
    if not members:
        return _rows_request("rank", name, inputs, NPZ, given)
    return _rows_request("rank", name, {**_members("inputs", inputs), **members}, NPZ, given)


def model_request(name: str, version: int | None = None) -> ClientRequest:
    """Build a request for the description of a model.

    Args:
        name: Name of the model.
        version: Version; the newest by default.

    Returns:
        The request.
    """
    path = f"/v1/models/{quote(name, safe='')}{'' if version is None else f'/versions/{version}'}"
    return ClientRequest("GET", path)


MODELS = ClientRequest("GET", "/v1/models")
READY = ClientRequest("GET", "/healthz/ready")


def _rows_request(verb: str, name: str, inputs: Inputs, accept: str, fields: dict[str, Any]) -> ClientRequest:
    version = fields.pop("version", None)
    pinned = "" if version is None else f"/versions/{version}"
    several = isinstance(inputs, Mapping)
    return ClientRequest(
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
    """Name rows as members of an .npz: several inputs follow a dot."""
    return {f"{field}.{name}": one for name, one in rows.items()} if isinstance(rows, Mapping) else {field: rows}


def _pop_members(fields: dict[str, Any], ids: Sequence[str | int] | None) -> dict[str, ArrayLike]:
    """Take the fields that are arrays out of the fields, as members of the .npz."""
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
    """Return the numbers of the excluded rows."""
    if ids is None:
        return list(exclude)
    unknown = set(exclude).difference(ids)
    if unknown:
        raise InvalidInput(f"exclude has {unknown.pop()!r}, which is not among the ids; give ids of rows.")
    out = set(exclude)
    return [row for row, name in enumerate(ids) if name in out]


def _coded(fields: dict[str, Any]) -> NDArray[Any]:
    """Take the groups out of the fields, as numbers, and name the quotas by these numbers."""
    codes: dict[Any, int] = {}
    found = [codes.setdefault(group, len(codes)) for group in np.asarray(fields.pop("groups")).tolist()]
    quotas = fields.get("quotas")
    if isinstance(quotas, Mapping):
        fields["quotas"] = {str(codes.setdefault(group, len(codes))): most for group, most in quotas.items()}
    return np.asarray(found, dtype=np.int64)


def _names(known: Any) -> list[str]:
    """Return the keys of a TypedDict, those of its bases included."""
    return sorted(known.__required_keys__ | known.__optional_keys__)


def _given(fields: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """Return the fields that are not None. Python does not check the names of a TypedDict's keywords."""
    unknown = fields.keys() - _names(known)
    if unknown:
        raise TypeError(f"there is no argument {min(unknown)!r}; there are {', '.join(_names(known))}.")
    return {name: value for name, value in fields.items() if value is not None}


def _query(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Write fields as a query string: texts as they are, other values as JSON, a list by repeating its field."""
    for name, value in fields.items():
        if name in {"outputs", "quantiles"}:
            yield from [(name, _text(one)) for one in value] or [(name, "")]
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Convert a numpy number or a mapping to what JSON can hold."""
    return dict(value) if isinstance(value, Mapping) else value.item()


def _numbers(rows: ArrayLike) -> NDArray[Any]:
    """Return rows as an array of numbers."""
    try:
        found = np.asarray(rows)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidInput(f"the rows cannot be read as an array: {error}.") from error
    if found.dtype.kind not in "iufb":
        raise InvalidInput(f"the rows hold {found.dtype}; give integers, floats or booleans.")
    return found


def _check_ids(ids: Sequence[str | int], inputs: Inputs) -> None:
    """Refuse ids whose number differs from the rows'. They are not sent: rows come back by number."""
    first = next(iter(inputs.values()), ()) if isinstance(inputs, Mapping) else inputs
    rows = np.shape(_numbers(first))[:1]
    if rows != (len(ids),):
        raise InvalidInput(f"there are {len(ids)} ids and {(*rows, 0)[0]} rows; give one id for each row, or none.")


def http_options(url: str, api_key: str | None) -> dict[str, Any]:
    """Return the arguments of an httpx client.

    Args:
        url: URL of the server.
        api_key: Key to send, if any.

    Returns:
        Keyword arguments.
    """
    return {"base_url": url, "headers": {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}}


def build_http_request(
    http: httpx.Client | httpx.AsyncClient, request: ClientRequest, policy: RetryPolicy
) -> httpx.Request:
    """Return an httpx request with the time that is left for it.

    Args:
        http: The client that will send it.
        request: The request.
        policy: Its time and retries.

    Returns:
        The httpx request.
    """
    kind = {"Content-Type": request.content_type} if request.content_type else {}
    return http.build_request(
        request.method,
        request.path,
        params=request.query or None,
        content=request.content,
        headers={"Accept": request.accept, **kind, **policy.headers},
        timeout=policy.timeout_s,
    )
