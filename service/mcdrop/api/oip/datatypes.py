"""The datatypes of the Open Inference Protocol, and tensors of them from JSON and from bytes."""

import math
from itertools import chain
from typing import Any

import numpy as np

from dropout_core.errors import InvalidInput
from mcdrop.wire.npy import Array

# Little-endian on the wire, whatever the machine.
_NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_BF16 = "BF16"
# By the protocol, these cannot be sent as JSON.
_BINARY_ONLY = {"FP16", _BF16}
# The Python types that a kind of numpy dtypes may be read from.
_JSON_TYPES: dict[str, set[type]] = {"b": {bool, int}, "u": {int}, "i": {int}, "f": {int, float}}
# The kinds of arrays that it may be read from.
_ARRAY_KINDS = {"b": "biu", "u": "iu", "i": "iu", "f": "iuf"}
OF_NUMPY = {np.dtype(code).name: name for name, code in _NUMPY.items()}


def from_bytes(name: str, datatype: str, shape: list[int], raw: memoryview) -> Array:
    """Return a tensor from its bytes, in memory of its own.

    Args:
        name: The name of the tensor, for errors.
        datatype: Its datatype.
        shape: Its shape, rows first.
        raw: Its bytes.

    Returns:
        A tensor from its bytes, in memory of its own.

    Raises:
        InvalidInput: The bytes are not those of such a tensor.
    """
    expected = math.prod(shape) * _itemsize(name, datatype)
    if len(raw) != expected:
        raise InvalidInput(
            f"{name} has {len(raw)} bytes, but {datatype} of shape {shape} has {expected}. Send all of them."
        )
    if datatype == _BF16:  # the upper half of a float32
        return _shaped(name, (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32), shape)
    if datatype == "BOOL" and (np.frombuffer(raw, np.uint8) > 1).any():
        raise InvalidInput(f"{name} has bytes other than 0 and 1; a BOOL is one such byte.")
    # Copied, because torch needs aligned and writable memory, and a body is neither.
    return _shaped(name, np.frombuffer(raw, _NUMPY[datatype]).copy(), shape)


def from_json(name: str, datatype: str, shape: list[int], data: Any) -> Array:
    """Return a tensor from JSON values, or from an array of them.

    Args:
        name: The name of the tensor, for errors.
        datatype: Its datatype.
        shape: Its shape, rows first.
        data: A list of numbers, flat or nested as the shape, or an array.

    Returns:
        A tensor from JSON values, or from an array of them.

    Raises:
        InvalidInput: The numbers are not those of such a tensor.
    """
    _itemsize(name, datatype)
    if datatype in _BINARY_ONLY:
        raise InvalidInput(f"{name} is {datatype}, which JSON cannot hold; send it as binary data.")
    dtype = np.dtype(_NUMPY[datatype])
    values = (
        _of_array(name, dtype, shape, data) if isinstance(data, np.ndarray) else _of_lists(name, dtype, shape, data)
    )
    if dtype.kind == "b":
        if values.size and not 0 <= values.min() <= values.max() <= 1:
            raise InvalidInput(f"{name} has numbers other than 0 and 1; a BOOL is true or false, or 1 or 0.")
        values = values.astype(dtype)
    return _shaped(name, values, shape)


def _of_array(name: str, dtype: "np.dtype[Any]", shape: list[int], data: Array) -> Array:
    """Return an array with the dtype of a tensor, BOOL as int64. Raises InvalidInput if a number does not fit."""
    datatype = OF_NUMPY[dtype.name]
    if data.dtype.kind not in _ARRAY_KINDS[dtype.kind]:
        raise InvalidInput(f"{name} holds {data.dtype} numbers, which cannot become {datatype}.")
    if data.shape not in {(math.prod(shape),), tuple(shape)}:
        raise InvalidInput(
            f"{name} has numbers of shape {list(data.shape)}, but its shape is {shape}. Send a flat list, or one of "
            f"this shape."
        )
    with np.errstate(over="ignore"):
        values = data.astype(np.int64 if dtype.kind == "b" else dtype)
    if dtype.kind in "iu" and (values != data).any():
        raise InvalidInput(f"{name} has a number that does not fit {datatype}.")
    return values


def _of_lists(name: str, dtype: "np.dtype[Any]", shape: list[int], data: Any) -> Array:
    """As `_of_array`, for lists."""
    datatype = OF_NUMPY[dtype.name]
    flat = _flat(name, shape, data)
    strange = set(map(type, flat)) - _JSON_TYPES[dtype.kind]
    if strange:
        place = next(index for index, value in enumerate(flat) if type(value) in strange)
        raise InvalidInput(f"number {place} of {name} is {str(flat[place])[:20]!r}, which does not fit {datatype}.")
    try:
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and the model refuses it
            return np.array(flat, np.int64 if dtype.kind == "b" else dtype)
    except OverflowError as error:
        raise InvalidInput(f"{name} has a number that does not fit {datatype}: {error}.") from error


def raw_rows(name: str, dtype: str, sizes: list[int], raw: memoryview) -> Array:
    """Return the rows of an input from bytes alone.

    Args:
        name: The name of the input.
        dtype: Its dtype.
        sizes: The shape of a row.
        raw: The bytes of the rows.

    Returns:
        The rows of an input from bytes alone.

    Raises:
        InvalidInput: The bytes are not a whole number of rows, or there are none.
    """
    row = math.prod(sizes) * np.dtype(dtype).itemsize
    if row == 0 or not len(raw) or len(raw) % row:
        raise InvalidInput(f"the body has {len(raw)} bytes, and each row of {name} has {row}. Send whole rows.")
    return from_bytes(name, OF_NUMPY[dtype], [len(raw) // row, *sizes], raw)


def _itemsize(name: str, datatype: str) -> int:
    if datatype == _BF16:
        return 2
    if datatype not in _NUMPY:
        raise InvalidInput(
            f"{name} is {datatype[:20]!r}; this server takes {', '.join([*_NUMPY, _BF16])}, but not BYTES, because a "
            "model takes numbers."
        )
    return np.dtype(_NUMPY[datatype]).itemsize


def _flat(name: str, shape: list[int], data: Any) -> list[Any]:
    """Return the numbers of a tensor as a flat list. Nested lists must have its shape."""
    if not isinstance(data, list):
        raise InvalidInput(f"the data of {name} is not a list; send its numbers as one.")
    if not (data and isinstance(data[0], list)):
        if len(data) != math.prod(shape):
            raise InvalidInput(f"{name} has {len(data)} numbers, but its shape {shape} has {math.prod(shape)}.")
        return data
    level = [data]
    for depth, size in enumerate(shape):
        if not (set(map(type, level)) <= {list} and set(map(len, level)) <= {size}):
            raise InvalidInput(f"the lists of {name} are not {size} long at depth {depth}, as its shape {shape} says.")
        level = list(chain.from_iterable(level))
    return level


def _shaped(name: str, values: Array, shape: list[int]) -> Array:
    try:
        return values.reshape(shape)
    except ValueError as error:  # of no numbers, and yet too large
        raise InvalidInput(f"{name} cannot have the shape {shape}: {error}.") from error
