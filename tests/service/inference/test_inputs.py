import asyncio
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from dropout_core.errors import InvalidInput
from mcdrop.errors import BodyTooLarge, ClientGone, MalformedJson
from mcdrop.http.body import read_body, receive_body
from mcdrop.inference.inputs import array_to_rows, to_rows
from mcdrop.wire.json import dump_json, parse_json
from mcdrop_models.bundle.manifest import InputSpec

VECTOR = InputSpec(name="x", shape=(3,), dtype="float32")
IMAGE = InputSpec(name="x", shape=(2, 2), dtype="float64")
TOKENS = InputSpec(name="ids", shape=(3,), dtype="int64")
SMALL_TOKENS = InputSpec(name="ids", shape=(3,), dtype="int32")
NUMBER = InputSpec(name="x", shape=(), dtype="float64")
FINITE = st.floats(allow_nan=False, allow_infinity=False)

MISFITS = [
    (5, VECTOR, "inputs is 5; send a list of rows"),
    (None, VECTOR, "inputs is null"),
    (True, VECTOR, "inputs is true"),
    ("1,2,3", VECTOR, "inputs is the text '1,2,3'"),
    ({"a": 1}, VECTOR, "inputs is an object"),
    ([[1, 2, 3], [1, 2]], VECTOR, "row 1 has 2 values, not 3"),
    ([[1, 2], [3, 4]], VECTOR, r"row 0 has shape \[2\]"),
    ([[]], VECTOR, r"row 0 has shape \[0\]"),
    ([1, 2], VECTOR, r"row 0 has shape \[\]"),
    ([[[1, 2, 3]]], VECTOR, r"row 0 has shape \[1, 3\]"),
    ([[1, 2, 3], 4], VECTOR, "row 1 is 4, not a list of 3"),
    ([[[1, 2], [3]]], IMAGE, "row 0, column 1 has 1 values, not 2"),
    ([[[1, 2], [3, None]]], IMAGE, r"row 0, column \[1, 1\] is null"),
    ([[1, 2, 3], [1, "two", 3]], VECTOR, "row 1, column 1 is the text 'two'"),
    ([1, "two", 3], VECTOR, "row 0, column 1 is the text 'two'"),
    ([[1, 2, True]], VECTOR, "row 0, column 2 is true"),
    ([[1.5, False, 2]], VECTOR, "row 0, column 1 is false"),
    ([[True, False, True]], VECTOR, "row 0, column 0 is true"),
    ([[[1, 2], [3, False]]], IMAGE, r"row 0, column \[1, 1\] is false"),
    ([0, True, 0], TOKENS, "row 0, column 1 is true"),
    ([[1, {}, 2]], VECTOR, "row 0, column 1 is an object"),
    ([[1, [2], 2]], VECTOR, "row 0, column 1 is a list"),
    ([[0, 0, 0], [0, math.nan, 0]], VECTOR, "row 1, column 1 is nan; x takes finite float32 numbers"),
    ([[0, math.inf, 0]], VECTOR, "row 0, column 1 is inf"),
    ([[0, 0, -math.inf]], VECTOR, "row 0, column 2 is -inf"),
    ([[0, 1e300, 0]], VECTOR, r"row 0, column 1 is 1e\+300"),
    ([[1e20, "two", 0]], VECTOR, "row 0, column 1 is the text 'two'"),
    ([[0, 2**70, 0]], VECTOR, f"row 0, column 1 is {2**70}"),
    ([[0, 10**400, "x"]], VECTOR, "row 0, column 1 is 1000"),
    ([[0, 1.5, 0]], TOKENS, "row 0, column 1 is 1.5; ids takes finite int64 numbers"),
    ([[0, math.nan, 0]], TOKENS, "row 0, column 1 is nan; ids"),
    ([[0, 2**63, 0]], TOKENS, r"row 0, column 1 is 9.223372036854776e\+18; ids takes finite int64 numbers"),
    ([[0, -(2**31) - 1, 0]], SMALL_TOKENS, f"row 0, column 1 is {-(2**31) - 1}; ids takes finite int32"),
    ([1, None], NUMBER, "row 1 is null"),
]


class Wire:
    """A request whose body comes in parts; counts those that were read."""

    def __init__(self, *parts, length=None):
        self.parts, self.read = parts, 0
        self.headers = [] if length is None else [(b"content-length", str(length).encode())]

    async def receive(self):
        self.read += 1
        return {"type": "http.request", "body": self.parts[self.read - 1], "more_body": self.read < len(self.parts)}

    def body(self, max_bytes):
        request = Request({"type": "http", "headers": self.headers}, self.receive)
        return asyncio.run(receive_body(request, max_bytes))


def test_a_body_in_parts_is_read_whole():
    assert Wire(b"ab", b"", b"cde").body(5) == b"abcde"


def test_an_empty_body_is_read():
    assert Wire(b"").body(1) == b""


def test_a_body_is_refused_by_its_declared_length_before_any_of_it_is_read():
    wire = Wire(b"abcdef", length=6)

    with pytest.raises(BodyTooLarge, match="has 6 bytes; 5 are accepted"):
        wire.body(5)
    assert wire.read == 0


def test_a_body_of_exactly_the_limit_is_accepted():
    assert Wire(b"abcde", length=5).body(5) == b"abcde"


@pytest.mark.parametrize("length", [None, 1, -1, "x", "", "²"], ids=str)
def test_a_body_longer_than_it_says_is_refused_as_soon_as_too_much_came(length):
    wire = Wire(b"abc", b"def", b"ghi", b"jkl", length=length)

    with pytest.raises(BodyTooLarge, match="more than the 5 bytes"):
        wire.body(5)
    assert wire.read == 2


def test_a_caller_who_leaves_is_no_failure_of_ours():
    async def receive():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone, match="the client left"):
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 5, 1.0))


def test_json_is_read():
    assert parse_json(b'{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}


def test_nan_and_infinity_are_read_so_that_they_can_be_named():
    nan, plus, minus = parse_json(b"[NaN, Infinity, -Infinity]")

    assert math.isnan(nan)
    assert (plus, minus) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"{'a': 1}",
        b'"\xff"',
        b"[" * 100_000,
        b'["\\ud800"]',
        b'[NaN, "\\ud800"]',
        b'["\xed\xa0\x80"]',
        b"nan",
    ],
    ids=[
        "nothing",
        "a space",
        "an open object",
        "a trailing comma",
        "single quotes",
        "no UTF-8",
        "deep nesting",
        "half a character",
        "half a character after a NaN",
        "half a character in bytes",
        "a lower-case nan",
    ],
)
def test_what_is_no_json_is_refused(body):
    with pytest.raises(MalformedJson, match=r"^the body is not JSON: .+\.$"):
        parse_json(body)


@pytest.mark.parametrize("zeros", [18, 19, 20, 70, 400, 5000])
@pytest.mark.parametrize("beside", [b"0", b"NaN"], ids=["read by orjson", "read by json"])
def test_a_whole_number_of_any_length_becomes_one_that_can_be_refused(zeros, beside):
    number, _ = parse_json(b"[1" + b"0" * zeros + b"," + beside + b"]")

    assert number == (10**zeros if zeros < 20 else float(f"1e{zeros}"))


@given(st.recursive(st.none() | st.booleans() | FINITE | st.text(), lambda inner: st.lists(inner, max_size=4)))
def test_what_is_written_is_read_back(value):
    assert parse_json(dump_json(value)) == value


def test_arrays_are_written_with_every_digit():
    values = np.array([[0.1, 1 / 3], [1e-300, -2.0]])

    assert np.array_equal(json.loads(dump_json({"a": values}))["a"], values)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3)))
def test_rows_keep_every_value(rows):
    x = to_rows(rows, VECTOR)

    assert x.dtype == torch.float32
    assert x.shape == (len(rows), 3)
    assert x.tolist() == rows


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), min_size=1))
def test_tokens_keep_every_value(rows):
    assert to_rows(rows, TOKENS).tolist() == rows


def test_whole_and_other_numbers_may_be_mixed():
    assert to_rows([[1, 2.5, 3], [4, 5, 6]], VECTOR).tolist() == [[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]]


def test_whole_floats_are_tokens_too():
    assert to_rows([[1.0, 2.0, 3.0]], TOKENS).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("spec", [VECTOR, IMAGE, TOKENS, NUMBER], ids=["vector", "image", "tokens", "number"])
def test_no_rows_are_rows_of_the_right_shape(spec):
    x = to_rows([], spec)

    assert x.shape == (0, *spec.shape)
    assert x.dtype == getattr(torch, spec.dtype)


@pytest.mark.parametrize(("row", "spec"), [([1, 2, 3], VECTOR), ([[1, 2], [3, 4]], IMAGE)], ids=["vector", "image"])
def test_a_single_row_stands_for_a_list_of_one(row, spec):
    assert torch.equal(to_rows(row, spec), to_rows([row], spec))


def test_numbers_alone_are_rows_of_a_network_that_takes_numbers():
    assert to_rows([1, 2.5], NUMBER).tolist() == [1.0, 2.5]


@pytest.mark.parametrize(("inputs", "spec", "said"), MISFITS, ids=[said.replace("\\", "") for *_, said in MISFITS])
def test_what_does_not_fit_is_named_by_row_and_column(inputs, spec, said):
    with pytest.raises(InvalidInput, match=f"^{said}"):
        to_rows(inputs, spec)


def test_a_refusal_says_what_is_wanted():
    with pytest.raises(InvalidInput, match=r"; x takes float64 of shape \[2, 2\] for each row\.$"):
        to_rows([[[1, 2], [3]]], IMAGE)
    with pytest.raises(InvalidInput, match=r"; x takes one float64 for each row\.$"):
        to_rows(["a"], NUMBER)


@pytest.mark.parametrize("depth", [65, 200, 1000, 50_000])
def test_lists_of_any_depth_are_refused_by_row(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]

    with pytest.raises(InvalidInput, match=r"^row 0 "):
        to_rows(nested, VECTOR)


@pytest.mark.parametrize("dtype", ["U1", "bool", "complex128", "datetime64[s]"])
def test_an_array_of_anything_but_numbers_is_refused(dtype):
    with pytest.raises(InvalidInput, match=r"^the array holds .*x takes float32 of shape \[3\]"):
        array_to_rows(np.zeros((1, 3), dtype), VECTOR)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", ">f8", "uint64"])
def test_an_array_of_any_kind_of_numbers_is_converted(dtype):
    assert array_to_rows(np.array([[1, 2, 3]], dtype), VECTOR).tolist() == [[1.0, 2.0, 3.0]]


def test_an_array_in_another_order_of_memory_is_the_same_rows():
    values = np.arange(4.0).reshape(2, 2)

    assert array_to_rows(values.T, IMAGE).tolist() == [[[0.0, 2.0], [1.0, 3.0]]]
    assert array_to_rows(values[::-1], IMAGE).tolist() == [[[2.0, 3.0], [0.0, 1.0]]]


def test_a_single_number_is_no_row_of_a_vector():
    with pytest.raises(InvalidInput, match="row 0 has shape"):
        array_to_rows(np.array(1.0), VECTOR)


@pytest.mark.parametrize(
    "shape", [(0, 3), (0,), (5,), (40_000,), (3, 40_000), (40_000, 1), (2, 3, 16_000), (1, 70_000), (20_000, 0)]
)
def test_arrays_of_any_length_are_written_as_if_at_once(shape):
    value = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) / 7

    document = {"a": {"b": value, "c": None}, "d": {}, "e": [{"f": value}, {"g": [1, "x"]}], "h": [], "i": [None, {}]}
    lists = {**document, "a": {"b": value.tolist(), "c": None}, "e": [{"f": value.tolist()}, {"g": [1, "x"]}]}
    assert dump_json(document) == json.dumps(lists, separators=(",", ":")).encode()
