"""Bytes that are no model, or one no longer: only errors of ours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropout_core.errors import McdropError
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.from_onnx.read import imported
from tests.support.onnx_models import built

SMALL = built(
    "g (float[n, 4] x) => (float[n, 3] y) { tanh = Tanh(x)  d = Dropout(tanh, p)  y = MatMul(d, w) }",
    {"w": (4, 3), "p": np.array(0.5, np.float32)},
)


def test_names_that_are_no_text():
    with pytest.raises(InvalidBundle, match="no UTF-8"):
        imported(SMALL.replace(b"tanh", b"t\xff\xfeh"))


def test_no_model_at_all():
    for content in (b"", b"\x00", b"PK\x03\x04", SMALL[: len(SMALL) // 2]):
        with pytest.raises(InvalidBundle):
            imported(content)


@settings(max_examples=60)
@given(st.data())
def test_changed_bytes_are_read_or_refused(data):
    content = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "copy"]))
        if change == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del content[place : place + data.draw(st.integers(1, 20))]
        else:
            content[place:place] = content[place : place + data.draw(st.integers(1, 20))]
        if not content:
            return
    try:
        network = imported(bytes(content))
    except McdropError:
        return
    assert network.graph.sites
