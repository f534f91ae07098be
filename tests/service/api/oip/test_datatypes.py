import re
from contextlib import suppress
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dropout_core.errors import InvalidInput
from mcdrop.api.oip.datatypes import OF_NUMPY, from_bytes, from_json, raw_rows

IN_JSON = {name: datatype for name, datatype in OF_NUMPY.items() if datatype != "FP16"}
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def same(found, wanted):
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == wanted.tobytes()


def test_the_datatypes_are_those_of_the_protocol():
    assert set(OF_NUMPY.values()) == {
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
    }


@pytest.mark.parametrize("name", OF_NUMPY)
@given(data=st.data())
def test_bytes_come_back_to_the_last_bit(name, data):
    values = data.draw(npst.arrays(name, SHAPES))

    found = from_bytes("x", OF_NUMPY[name], list(values.shape), memoryview(values.tobytes()))

    same(found, values)
    assert found.flags.writeable
    assert found.flags.aligned


@pytest.mark.parametrize("name", IN_JSON)
@given(data=st.data())
def test_json_flat_and_nested_is_the_same_tensor(name, data):
    values = data.draw(npst.arrays(name, SHAPES.filter(len), elements={"allow_nan": False, "allow_infinity": False}
                                   if name.startswith("float") else None))  # fmt: skip

    for lists in (values.reshape(-1).tolist(), values.tolist()):
        same(from_json("x", IN_JSON[name], list(values.shape), lists), values)


def test_bfloat16_is_the_upper_half_of_a_float32():
    raw = np.array([0x3F80, 0xC049, 0x0000, 0x7F80], "<u2").tobytes()

    same(from_bytes("x", "BF16", [2, 2], memoryview(raw)), np.array([[1, -3.140625], [0, np.inf]], np.float32))


def test_odd_addresses_are_no_matter():
    body = b"\0" + np.arange(3.0, dtype=np.float32).tobytes()

    same(from_bytes("x", "FP32", [3], memoryview(body)[1:]), np.arange(3.0, dtype=np.float32))


@pytest.mark.parametrize(
    ("datatype", "shape", "size", "said"),
    [
        ("FP32", [2, 3], 23, "x has 23 bytes, but FP32 of shape [2, 3] has 24"),
        ("FP32", [2, 3], 25, "x has 25 bytes"),
        ("INT8", [2**40, 2**40], 8, f"has {2**80}"),
        ("FP64", [0, 2**62], 0, "cannot have the shape"),
        ("BF16", [3], 5, "has 6"),
        ("BYTES", [1], 8, "not BYTES"),
        ("fp32", [1], 4, "is 'fp32'"),
    ],
)
def test_bytes_that_are_not_the_shape_are_refused(datatype, shape, size, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        from_bytes("x", datatype, shape, memoryview(bytes(size)))


def test_a_truth_is_one_of_two_bytes():
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        from_bytes("x", "BOOL", [2], memoryview(b"\1\2"))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [2], [1.0], "x has 1 numbers, but its shape [2] has 2"),
        ("FP32", [2, 2], [[1, 2], [3]], "not 2 long at depth 1"),
        ("FP32", [2, 2], [[1, 2], 3], "not 2 long at depth 1"),
        ("FP32", [2, 2], [[1, 2]], "not 2 long at depth 0"),
        ("FP32", [2], [[1], [2]], "number 0 of x is '[1]'"),
        ("FP32", [1], ["1"], "number 0 of x is '1', which does not fit FP32"),
        ("FP32", [2], [1, None], "number 1 of x is 'None'"),
        ("FP32", [2], [1.5, True], "number 1 of x is 'True'"),
        ("FP32", [1], None, "is not a list"),
        ("FP32", [1], {"0": 1}, "is not a list"),
        ("INT64", [1], [1.0], "number 0 of x is '1.0', which does not fit INT64"),
        ("INT8", [1], [128], "does not fit INT8"),
        ("UINT64", [1], [-1], "does not fit UINT64"),
        ("BOOL", [1], [2], "other than 0 and 1"),
        ("BOOL", [1], [0.0], "number 0 of x is '0.0'"),
        ("FP16", [1], [1.0], "send it as binary data"),
        ("BF16", [1], [1.0], "send it as binary data"),
        ("BYTES", [1], ["a"], "not BYTES"),
    ],
)
def test_json_that_is_not_the_tensor_is_refused(datatype, shape, data, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        from_json("x", datatype, shape, data)


def test_whole_numbers_keep_every_digit():
    assert from_json("x", "INT64", [2], [2**63 - 1, -(2**63)]).tolist() == [2**63 - 1, -(2**63)]
    assert from_json("x", "UINT64", [1], [2**64 - 1]).tolist() == [2**64 - 1]


def test_a_number_too_large_for_its_type_becomes_infinite_without_a_warning():
    assert from_json("x", "FP32", [1], [1e300]).tolist() == [np.inf]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2), st.lists, max_leaves=9
)


@given(JSON, st.lists(st.integers(0, 3), max_size=3), st.sampled_from([*IN_JSON.values(), "FP16", "BYTES", ""]))
def test_any_json_is_a_tensor_of_its_shape_or_refused(data, shape, datatype):
    with suppress(InvalidInput):
        assert list(from_json("x", datatype, shape, data).shape) == shape


@given(
    st.binary(max_size=24), st.lists(st.integers(0, 2**63), max_size=4), st.sampled_from([*OF_NUMPY.values(), "BF16"])
)
def test_any_bytes_are_a_tensor_of_their_shape_or_refused(raw, shape, datatype):
    try:
        found = from_bytes("x", datatype, shape, memoryview(raw))
    except InvalidInput:
        return
    assert (list(found.shape), found.size) == (shape, prod(shape))


def test_rows_of_a_body_are_counted_by_its_length():
    rows = np.arange(12, dtype=np.int64).reshape(3, 2, 2)

    same(raw_rows("x", "int64", [2, 2], memoryview(rows.tobytes())), rows)
    with pytest.raises(InvalidInput, match="95 bytes, and each row of x has 32"):
        raw_rows("x", "int64", [2, 2], memoryview(rows.tobytes())[:-1])
    with pytest.raises(InvalidInput, match="0 bytes, and each row of x has 32"):
        raw_rows("x", "int64", [2, 2], memoryview(b""))
    with pytest.raises(InvalidInput, match="each row of x has 0"):
        raw_rows("x", "int64", [0], memoryview(b""))
