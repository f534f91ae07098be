"""numpy's files: one array (.npy) or several by name (.npz), read from strangers and written for anyone.

A .npy is a magic word, a version, the length of a header, the header, and numbers; a .npz is a zip of such files
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). Every length in them is a claim of somebody
else: it is compared with the bytes that came before anything is made of it, and no Python is ever evaluated.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray

from mcdrop.errors import BodyTooLarge, InvalidRequest

Array = NDArray[Any]

# How many bytes say how long the header is, by the version of the format.
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
# That of an array of numbers has about a hundred bytes.
_MOST_HEADER = 4096
_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_JSON_OF_PYTHON = str.maketrans("'()", '"[]')
# A zip ends with where its list of members is and how long; a thousand members have 64 KiB of it.
_END = struct.Struct("<4s4H2IH")
_MOST_LISTED = 2**16
_ENCRYPTED = 1


def read_npy(body: bytes, name: str = "the body") -> Array:
    """The array of a .npy file: whole numbers, floats, or true and false. name: as errors call it.

    Raises InvalidRequest for what is no such file, for other kinds of numbers, and for bytes missing or left over.
    """
    start, fields = _header(body, name)
    dtype, shape = _dtype_of(fields, name), _shape_of(fields, name)
    wanted, came = math.prod(shape) * dtype.itemsize, len(body) - start
    if wanted != came:
        raise InvalidRequest(f"{name} has {came} bytes of numbers; {dtype} of shape {shape} has {wanted}.")
    # Copied once: torch wants aligned memory that it may write, and a body is neither.
    values = np.frombuffer(body, dtype, offset=start).copy()
    if dtype.kind == "b" and (values.view(np.uint8) > 1).any():
        raise InvalidRequest(f"{name} has bytes other than 0 and 1; bool has one such byte for each value.")
    try:
        return values.reshape(shape, order="F" if fields.get("fortran_order") is True else "C")
    except ValueError as error:  # of no numbers, and yet too large
        raise InvalidRequest(f"{name} cannot have the shape {shape}: {error}.") from error


def read_npz(body: bytes, max_bytes: int) -> dict[str, Array]:
    """The arrays of a .npz file by name, compressed or not. max_bytes: of all of them.

    Raises BodyTooLarge before more is inflated, InvalidRequest for what is no such file, and as `read_npy`.
    """
    try:
        _check_end(body)
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            _check_members(members, max_bytes)
            return {one.filename[:-4]: read_npy(_inflated(archive, one), one.filename) for one in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error, zlib.error) as error:
        raise InvalidRequest(f"the body is no .npz file: {error}.") from error


def write_npz(members: Mapping[str, Any]) -> bytes:
    """A .npz file of arrays, or what becomes one: numbers and texts. The same members are the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), write_npy(value))
    return file.getvalue()


def write_npy(value: Any) -> bytes:
    """A .npy file of one array. Raises ValueError for one that only pickle could write."""
    file = io.BytesIO()
    npy.write_array(file, np.asanyarray(value), allow_pickle=False)
    return file.getvalue()


def _header(body: bytes, name: str) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and what the header says of them."""
    if body[: len(npy.MAGIC_PREFIX)] != npy.MAGIC_PREFIX or len(body) < npy.MAGIC_LEN:
        raise InvalidRequest(f"{name} is no .npy file: numpy.save writes one.")
    version = body[len(npy.MAGIC_PREFIX)]
    if version not in _LENGTHS:
        raise InvalidRequest(f"{name} is a .npy file of version {version}; send 1, 2 or 3.")
    length = struct.Struct(_LENGTHS[version])
    start = npy.MAGIC_LEN + length.size
    size = length.unpack_from(body, npy.MAGIC_LEN)[0] if len(body) >= start else _MOST_HEADER + 1
    if size > min(_MOST_HEADER, len(body) - start):
        raise InvalidRequest(f"the header of {name} ends beyond the file or after {_MOST_HEADER} bytes; send it whole.")
    return start + size, _fields(body[start : start + size], name)


def _fields(header: bytes, name: str) -> dict[str, Any]:
    """A header is a literal of Python. Of what may stand in it, only quotes, brackets and words differ from JSON."""
    text = header.decode("latin-1").translate(_JSON_OF_PYTHON).replace("True", "true").replace("False", "false")
    try:
        fields = orjson.loads(re.sub(r",(\s*[\]}])", r"\1", text))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the header of {name} cannot be read: {error}.") from error
    if not isinstance(fields, dict) or set(fields) != npy.EXPECTED_KEYS or type(fields["fortran_order"]) is not bool:
        raise InvalidRequest(f"the header of {name} must have {', '.join(sorted(npy.EXPECTED_KEYS))}, and no more.")
    return fields


def _dtype_of(fields: Mapping[str, Any], name: str) -> "np.dtype[Any]":
    descr = fields["descr"]
    if not (isinstance(descr, str) and _NUMBERS.fullmatch(descr)):
        raise InvalidRequest(f"{name} holds {str(descr)[:40]!r}; send whole numbers, floats of 2 to 8 bytes, or bool.")
    return np.dtype(descr)


def _shape_of(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = fields["shape"]
    if not (isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)):
        raise InvalidRequest(f"the shape of {name} is {str(shape)[:40]}; send whole numbers of 0 or more.")
    return tuple(shape)


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member: no more than it says. Without a number zipfile would inflate all there are."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def _check_end(body: bytes) -> None:
    """Refuse a zip whose list of members is too long to be read, or not where it is looked for.

    zipfile makes an object of each member before anybody can count them.
    """
    if len(body) < _END.size:
        raise InvalidRequest("the body is no .npz file: it is too short.")
    signature, *_, listed, _, comment = _END.unpack(body[-_END.size :])
    if signature != b"PK\5\6" or comment:
        raise InvalidRequest("the body is no .npz file, which numpy.savez writes: it does not end as a zip does.")
    # "PK\6\7" would lead zipfile to another list, of any length: that of an archive beyond 4 GiB.
    if listed > _MOST_LISTED or body[-_END.size - 20 :].startswith(b"PK\6\7"):
        raise InvalidRequest(f"the .npz file lists its members in more than {_MOST_LISTED} bytes; send fewer.")


def _check_members(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    names = [one.filename for one in members]
    for one in members:
        if not one.filename.endswith(".npy"):
            raise InvalidRequest(f"the .npz file has {one.filename[:40]!r}; each member is a .npy, named as an input.")
        if one.flag_bits & _ENCRYPTED or one.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InvalidRequest(f"{one.filename} is encrypted, or compressed in another way than numpy does.")
    if len(set(names)) != len(names):
        raise InvalidRequest("the .npz file has two members of one name; send each input once.")
    total = sum(one.file_size for one in members)
    if total > max_bytes:
        raise BodyTooLarge(
            f"the .npz file has {total} bytes when inflated; {max_bytes} are accepted. Send fewer rows at a time."
        )
