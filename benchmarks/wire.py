"""A question as the bytes of one HTTP request, in each form that the servers read."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """Rows to a model, and the name of its input."""

    net: str
    input_name: str
    rows: Rows
    passes: int


Form = Callable[[Question], bytes]


def rows_of(shape: tuple[int, ...], rows: int) -> Rows:
    """Rows of a net, the same each time: in 0 … 1 with four digits, as pixels are."""
    return np.random.default_rng(0).random((rows, *shape)).round(4).astype(np.float32)


def v1_json(asked: Question) -> bytes:
    """JSON both ways."""
    body = _json({"inputs": _numbers(asked.rows), "passes": asked.passes})
    return _post(f"/v1/models/{asked.net}/predict", body, {"Content-Type": "application/json"})


def v1_npy(asked: Question) -> bytes:
    """A .npy file in, a .npz file out."""
    file = io.BytesIO()
    np.save(file, asked.rows)
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npz"}
    return _post(f"/v1/models/{asked.net}/predict?passes={asked.passes}", file.getvalue(), headers)


def oip_binary(asked: Question) -> bytes:
    """The Open Inference Protocol with binary tensors both ways."""
    tensor = {**_tensor(asked), "parameters": {"binary_data_size": asked.rows.nbytes}}
    head = _json({"inputs": [tensor], "parameters": {"passes": asked.passes, "binary_data_output": True}})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return _post(f"/v2/models/{asked.net}/infer", head + asked.rows.tobytes(), headers)


def oip_json(asked: Question) -> bytes:
    """The Open Inference Protocol in JSON, as its servers without binary tensors read it."""
    body = _json({"inputs": [{**_tensor(asked), "data": _numbers(asked.rows.ravel())}]})
    return _post(f"/v2/models/{asked.net}/infer", body, {"Content-Type": "application/json"})


def plain_json(asked: Question) -> bytes:
    """What people read in an endpoint of their own."""
    return _post("/predict", _json({"inputs": _numbers(asked.rows)}), {"Content-Type": "application/json"})


def _post(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    fields = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
    head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(head).encode() + body


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _numbers(rows: Rows) -> Any:
    """As people write them: 0.1234, not all the digits of the nearest float."""
    return rows.astype(np.float64).round(4).tolist()


def _tensor(asked: Question) -> dict[str, Any]:
    return {"name": asked.input_name, "shape": list(asked.rows.shape), "datatype": "FP32"}
