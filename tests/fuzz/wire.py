"""Bytes nobody would send: every reader of a body must refuse them with a status of the caller's (4xx), or read them.

Run beside the project's packages, with atheris installed:

    python -m tests.fuzz.wire -max_total_time=300 FOLDER

FOLDER keeps what was found worth trying, from good bodies on.
"""

import gzip
import io
import json
import sys
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["mcdrop"]):
    from mcdrop.api.oip import decode as oip
    from mcdrop.api.v1.payload import Payload, query_fields
    from mcdrop.api.v1.predict import request as predicting
    from mcdrop.api.v1.rank import request as ranking
    from mcdrop.http import compression as inflate
    from mcdrop.http import media_types as forms
    from mcdrop.http.problems import problem_of
    from mcdrop.inference.inputs import to_inputs
    from mcdrop.inference.query import RequestLimits
    from mcdrop.wire import npy as arrays
    from mcdrop.wire import oip_frame as framing
    from mcdrop.wire.json import JsonParser, parse_json

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.publishing.torch import publish
from tests.support import service_nets as nets

_MAX_BYTES = 2**20
_LIMITS = RequestLimits(max_passes=64, max_samples=2**16, max_length=64)
_PARSER = JsonParser()


@cache
def predictor() -> Predictor:
    """A small classifier of images."""
    with tempfile.TemporaryDirectory() as folder:
        network = nets.seeded(nets.Classifier, 1)
        publish(network, nets.images(4), name="fuzzed", task="classification", root=Path(folder))
        return Predictor.newest(Repository(folder), "fuzzed")


def infer(data: bytes) -> None:
    """A body of the Open Inference Protocol, its first three bytes in the place of the header's number."""
    header = data[:3].decode("latin-1")
    oip.decode(framing.Frame.of(data[3:], header or None), predictor(), _LIMITS, _PARSER)


def predict(data: bytes) -> None:
    """A body of each form, the query before it."""
    form = (forms.JSON, forms.NPY, forms.NPZ)[data[0] % 3] if data else forms.JSON
    query, _, body = data[1:].partition(b"\0")
    names = [tuple(part.partition("=")[::2]) for part in query.decode("latin-1").split("&") if part]
    payload = Payload(form, body, query_fields(names), _MAX_BYTES)
    predicting.decode(payload, predictor(), _LIMITS, _PARSER)
    ranking.decode(payload, predictor(), _LIMITS, _PARSER)


def inflated(data: bytes) -> None:
    """A compressed body."""
    inflate.decompress(data[1:], ("gzip", "deflate", "br")[data[0] % 3] if data else "gzip", _MAX_BYTES)


READERS: tuple[Callable[[bytes], object], ...] = (
    infer,
    predict,
    inflated,
    lambda data: to_inputs(parse_json(data), predictor().manifest),
    arrays.read_npy,
    lambda data: arrays.read_npz(data, _MAX_BYTES),
    lambda data: forms.negotiate(data.decode("latin-1"), (forms.JSON, forms.NPZ)),
    lambda data: forms.body_media_type(data.decode("latin-1")),
)


def one(data: bytes) -> None:
    """Read some bytes by the reader that the first of them names. Raises what is no refusal."""
    reader = READERS[data[0] % len(READERS)] if data else READERS[0]
    try:
        reader(data[1:])
    except Exception as error:
        if not 400 <= problem_of(error).status < 500:
            raise


def good() -> list[bytes]:
    """A good body of each kind, behind the number of its reader."""
    rows = np.zeros((2, 8, 8), np.float32)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, rows)
    np.savez_compressed(npz, x=rows)
    body = json.dumps({"inputs": rows.tolist(), "passes": 4, "quantiles": [0.5]}).encode()
    tensor = {"name": "x", "shape": [2, 8, 8], "datatype": "FP32"}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": rows.nbytes}}]}).encode()
    flat = json.dumps({"inputs": [{**tensor, "data": rows.reshape(-1).tolist()}]}).encode()
    return [
        b"\x00" + str(len(head)).encode().rjust(3) + head + rows.tobytes(),
        b"\x00" + str(len(flat)).encode()[:3].rjust(3) + flat,
        b"\x01\x00passes=4&outputs=mean\0" + body,
        b"\x01\x01passes=4&tolerance=0.1\0" + npy.getvalue(),
        b"\x01\x02k=1&score=random\0" + npz.getvalue(),
        b"\x02\x00" + gzip.compress(body),
        b"\x02\x01" + zlib.compress(body),
        b"\x03" + body,
        b"\x04" + npy.getvalue(),
        b"\x05" + npz.getvalue(),
        b"\x06application/x-npz;q=0.5, */*;q=0.1",
        b"\x07application/json; charset=utf-8",
    ]


if __name__ == "__main__":
    predictor()
    for number, body in enumerate(good()):
        one(body)
        (Path(sys.argv[-1]) / f"good-{number}").write_bytes(body)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
