import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdrop.errors import InvalidRequest
from mcdrop.wire.oip_frame import Frame, encode_frame

SIZES = st.lists(st.none() | st.integers(0, 12), max_size=5)


def test_without_a_length_all_is_json():
    frame = Frame.of(b'{"a": 1}', None)

    assert (frame.json, bytes(frame.tensors), frame.raw) == (b'{"a": 1}', b"", False)


def test_of_length_zero_there_is_no_json():
    frame = Frame.of(b"\0\1", "0")

    assert (frame.json, bytes(frame.tensors), frame.raw) == (b"", b"\0\1", True)


@pytest.mark.parametrize("length", ["", "-1", "+1", "1.0", "1e1", "0x1", " 1", "٣", "1_0", "1" * 20, "1, 1"])
def test_a_length_that_is_no_number_is_refused(length):
    with pytest.raises(InvalidRequest, match="whole number"):
        Frame.of(b"{}", length)


def test_a_length_beyond_the_body_is_refused():
    assert Frame.of(b"{}", "2").json == b"{}"
    with pytest.raises(InvalidRequest, match="is 3, and the body has 2 bytes"):
        Frame.of(b"{}", "3")


@given(st.binary(max_size=30), SIZES)
def test_tensors_are_cut_without_gap_or_overlap_or_refused(tail, sizes):
    frame = Frame.of(b"{}" + tail, "2")
    if sum(size or 0 for size in sizes) != len(tail):
        with pytest.raises(InvalidRequest, match=f"{len(tail)} bytes follow the JSON"):
            frame.split(sizes)
        return

    parts = frame.split(sizes)

    assert [None if part is None else len(part) for part in parts] == sizes
    assert b"".join(bytes(part) for part in parts if part is not None) == tail


@given(st.binary(max_size=8), st.none() | st.text(max_size=4) | st.integers(-3, 20).map(str), SIZES)
def test_whatever_is_claimed_ends_in_a_refusal_or_in_bytes_that_are_there(body, length, sizes):
    try:
        frame = Frame.of(body, length)
        parts = frame.split(sizes)
    except InvalidRequest:
        return
    assert frame.json + b"".join(bytes(part) for part in parts if part is not None) == body


def test_an_answer_is_cut_as_it_was_written():
    tensors = [np.arange(6.0).reshape(2, 3), np.zeros((0, 3)), np.array([7], np.int64)]

    answer = encode_frame({"said": [1.5], "number": np.float64(2)}, tensors)
    frame = Frame.of(answer.content, str(answer.json_length))

    assert json.loads(frame.json) == {"said": [1.5], "number": 2.0}
    assert [bytes(part) for part in frame.split([48, 0, 8])] == [tensor.tobytes() for tensor in tensors]


def test_an_answer_without_tensors_has_no_length():
    answer = encode_frame({"data": np.arange(3)}, [])

    assert (answer.content, answer.json_length) == (b'{"data":[0,1,2]}', None)
