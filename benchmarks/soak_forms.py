"""A question in each form the server reads, and its answer as arrays."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from soak_truth import Measures, Question

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Sent:
    """A request."""

    path: str
    body: bytes
    headers: Headers


@dataclass(frozen=True)
class Answer:
    """Which version answered, and what."""

    version: int
    measures: Measures


@dataclass(frozen=True)
class Form:
    """A way to ask and its answers' way back."""

    sent: Callable[[Question], Sent]
    read: Callable[[bytes, Headers], Answer]


def _v1(asked: Question) -> str:
    pinned = "" if asked.version is None else f"/versions/{asked.version}"
    return f"/v1/models/{asked.model}{pinned}/predict"


def json_sent(asked: Question) -> Sent:
    body = {"inputs": asked.x.astype(float).tolist(), "passes": asked.passes, "seed": asked.seed}
    return Sent(_v1(asked), json.dumps(body).encode(), {"Content-Type": "application/json"})


def json_read(body: bytes, _: Headers) -> Answer:
    found = json.loads(body)
    return Answer(found["version"], {name: np.asarray(values) for name, values in found["outputs"].items()})


def npy_sent(asked: Question) -> Sent:
    file = io.BytesIO()
    np.save(file, asked.x)
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npz"}
    return Sent(f"{_v1(asked)}?passes={asked.passes}&seed={asked.seed}", file.getvalue(), headers)


def npz_read(body: bytes, _: Headers) -> Answer:
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        run = {
            "model",
            "version",
            "passes",
            "seed",
            "sampling",
            "masks",
            "branches",
            "noise",
            "labels",
            "quantile_levels",
        }
        return Answer(int(found["version"]), {name: found[name] for name in set(found) - run})


def oip_sent(asked: Question) -> Sent:
    x = asked.x
    tensor = {
        "name": "input",
        "shape": list(x.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": x.nbytes},
    }
    parameters = {"passes": asked.passes, "seed": asked.seed, "binary_data_output": True}
    head = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    pinned = "" if asked.version is None else f"/versions/{asked.version}"
    path = f"/v2/models/{asked.model}{pinned}/infer"
    return Sent(path, head + x.tobytes(), {"Inference-Header-Content-Length": str(len(head))})


def oip_read(body: bytes, headers: Headers) -> Answer:
    length = int(headers["inference-header-content-length"])
    found, at = json.loads(body[:length]), length
    measures: Measures = {}
    for output in found["outputs"]:
        size = output["parameters"]["binary_data_size"]
        dtype = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
        measures[output["name"]] = np.frombuffer(body[at : at + size], dtype).reshape(output["shape"])
        at += size
    return Answer(int(found["model_version"]), measures)


FORMS = {
    "json": Form(json_sent, json_read),
    "npy": Form(npy_sent, npz_read),
    "oip": Form(oip_sent, oip_read),
}
