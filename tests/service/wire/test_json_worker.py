import json
import os
import signal
import subprocess
import sys

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdrop.wire.json import parse_json
from mcdrop.wire.json_worker import JsonWorker, JsonWorkerDied

NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_infinity=False), st.booleans())
VALUES = st.recursive(
    st.one_of(NUMBERS, st.none(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def parser():
    parser = JsonWorker()
    yield parser
    parser.close()


def as_lists(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: as_lists(part) for key, part in value.items()}
    return [as_lists(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ({"inputs": [[1.5, 2], [3, 4]], "passes": 8, "seed": None}, "float64"),
        ({"inputs": [[1, -2]]}, "int64"),
        ({"inputs": [[True], [False]]}, "bool"),
        ({"inputs": []}, "float64"),
        ({"inputs": [2**64 - 1]}, "uint64"),
    ],
)
def test_rows_come_as_an_array_and_the_rest_as_it_was(parser, value, dtype):
    parsed = parser.parse(orjson.dumps(value))

    assert parsed["inputs"].dtype == dtype
    assert as_lists(parsed) == value


def test_inputs_by_name_and_tensors_in_a_list_are_arrays_too(parser):
    named = parser.parse(b'{"inputs": {"x": [[1.0]], "n": [2]}}')["inputs"]
    listed = parser.parse(b'{"inputs": [{"name": "x", "data": [1.0]}, {"name": "raw"}]}')["inputs"]

    assert (named["x"].tolist(), named["n"].tolist()) == ([[1.0]], [2])
    assert isinstance(listed[0]["data"], np.ndarray)
    assert as_lists(listed) == [{"name": "x", "data": [1.0]}, {"name": "raw"}]


def test_nan_and_infinity_are_read_as_many_clients_write_them(parser):
    assert np.isnan(parser.parse(b'{"inputs": [[NaN]]}')["inputs"]).all()
    assert parser.parse(b'{"inputs": [[-Infinity]]}')["inputs"].tolist() == [[-np.inf]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"7",
        b"{}",
        b'{"inputs": null}',
        b'{"inputs": 3}',
        b'{"inputs": "abc"}',
        b'{"inputs": [["abc"]]}',
        b'{"inputs": [[1, 2], [3]]}',
        b'{"inputs": [[1, true]]}',
        b'{"inputs": [[1, null]]}',
        b'{"inputs": [{"data": {}}]}',
        b'{"inputs": [{}, 1]}',
        b'{"inputs": [' + b"9" * 400 + b"]}",
        b'{"inputs": "\\ud800"}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_irregular_is_left_to_whoever_says_what_is_wrong(parser, body):
    assert parser.parse(body) is None


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.binary(max_size=60), VALUES.map(lambda value: json.dumps({"inputs": value}).encode())))
def test_a_body_is_parsed_as_in_the_usual_way_or_not_at_all(parser, body):
    parsed = parser.parse(body)

    if parsed is not None:
        np.testing.assert_equal(as_lists(parsed), parse_json(body))


def test_a_process_that_dies_is_told_and_another_one_is_started(parser):
    parser.parse(b'{"inputs": [1]}')
    os.kill(parser._process.pid, signal.SIGKILL)
    parser._process.wait()

    with pytest.raises(JsonWorkerDied, match="-9"):
        parser.parse(b'{"inputs": [1]}')

    assert parser.parse(b'{"inputs": [1]}')["inputs"].tolist() == [1]


def test_the_process_ends_when_nobody_is_left_to_ask_it():
    process = subprocess.Popen([sys.executable, "-P", "-m", "mcdrop.wire.json_worker"], stdin=subprocess.PIPE)

    process.stdin.close()

    assert process.wait(60) == 0


def test_the_process_loads_no_network():
    code = "import sys, mcdrop.wire.json_worker; print(sorted({'torch', 'fastapi', 'pydantic'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
