"""The file formats of numpy, read from untrusted clients: one array (.npy), or several by name (.npz).

A .npy file has a magic string, a version, the length of a header, the header and the numbers. A .npz file is a zip
archive of such files (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). Lengths come from the
client, so each is compared with the bytes that arrived before it is used. No Python is ever evaluated.
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

# The struct format of the header's length, by the version of the file format.
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
# The header of an array of numbers has about a hundred bytes.
_MOST_HEADER = 4096
_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_JSON_OF_PYTHON = str.maketrans("'()", '"[]')
# A zip archive ends with the place and the length of its directory; a thousand members fill 64 KiB of it.
_END = struct.Struct("<4s4H2IH")
_MOST_LISTED = 2**16
_ENCRYPTED = 1


def read_npy(body: bytes, name: str = "the body") -> Array:
    """Return the array of a .npy file.

    Args:
        body: The bytes of the file.
        name: What errors call it.

    Returns:
        The array of a .npy file.

    Raises:
        InvalidRequest: The file is damaged, has bytes missing or left over, or holds neither whole numbers, floats nor
            booleans.
    """
    start, fields = _header(body, name)
    dtype, shape = _dtype_of(fields, name), _shape_of(fields, name)
    expected, found = math.prod(shape) * dtype.itemsize, len(body) - start
    if expected != found:
        raise InvalidRequest(
            f"{name} has {found} bytes of numbers, but {dtype} of shape {shape} has {expected}. Send the whole file."
        )
    # Copied, because torch needs aligned and writable memory, and a body is neither.
    values = np.frombuffer(body, dtype, offset=start).copy()
    if dtype.kind == "b" and (values.view(np.uint8) > 1).any():
        raise InvalidRequest(f"{name} has bytes other than 0 and 1; a bool is one such byte.")
    try:
        return values.reshape(shape, order="F" if fields.get("fortran_order") is True else "C")
    except ValueError as error:  # it has no numbers, and sizes that are too large
        raise InvalidRequest(f"{name} cannot have the shape {shape}: {error}.") from error


def read_npz(body: bytes, max_bytes: int) -> dict[str, Array]:
    """Return the arrays of a .npz file by name. The file may be compressed.

    Args:
        body: The bytes of the file.
        max_bytes: The most bytes that all arrays may have.

    Returns:
        The arrays of a .npz file by name.

    Raises:
        BodyTooLarge: The arrays have more bytes. It is raised before they are inflated.
        InvalidRequest: The file, or one of its members, is damaged.
    """
    try:
        _check_end(body)
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            _check_members(members, max_bytes)
            return {one.filename[:-4]: read_npy(_inflated(archive, one), one.filename) for one in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error, zlib.error) as error:
        raise InvalidRequest(f"the body is not a .npz file: {error}.") from error


def write_npz(members: Mapping[str, Any]) -> bytes:
    """Return a .npz file. Equal members give equal bytes.

    Args:
        members: Arrays, numbers or texts by name.

    Returns:
        A .npz file.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), write_npy(value))
    return file.getvalue()


def write_npy(value: Any) -> bytes:
    """Return a .npy file.

    Args:
        value: An array, or what numpy makes one of.

    Returns:
        A .npy file.

    Raises:
        ValueError: Only pickle could write the array.
    """
    file = io.BytesIO()
    npy.write_array(file, np.asanyarray(value), allow_pickle=False)
    return file.getvalue()


def _header(body: bytes, name: str) -> tuple[int, dict[str, Any]]:
    """Return where the numbers begin, and the fields of the header."""
    if body[: len(npy.MAGIC_PREFIX)] != npy.MAGIC_PREFIX or len(body) < npy.MAGIC_LEN:
        raise InvalidRequest(f"{name} is not a .npy file. numpy.save writes one.")
    version = body[len(npy.MAGIC_PREFIX)]
    if version not in _LENGTHS:
        raise InvalidRequest(f"{name} is a .npy file of version {version}; send version 1, 2 or 3.")
    length = struct.Struct(_LENGTHS[version])
    start = npy.MAGIC_LEN + length.size
    size = length.unpack_from(body, npy.MAGIC_LEN)[0] if len(body) >= start else _MOST_HEADER + 1
    if size > min(_MOST_HEADER, len(body) - start):
        raise InvalidRequest(
            f"the header of {name} ends beyond the file, or has more than {_MOST_HEADER} bytes. Send the whole file."
        )
    return start + size, _fields(body[start : start + size], name)


def _fields(header: bytes, name: str) -> dict[str, Any]:
    """Return the fields of a header: a Python literal that differs from JSON in quotes, brackets and words only."""
    text = header.decode("latin-1").translate(_JSON_OF_PYTHON).replace("True", "true").replace("False", "false")
    try:
        fields = orjson.loads(re.sub(r",(\s*[\]}])", r"\1", text))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the header of {name} cannot be read: {error}.") from error
    if not isinstance(fields, dict) or set(fields) != npy.EXPECTED_KEYS or type(fields["fortran_order"]) is not bool:
        raise InvalidRequest(
            f"the header of {name} must have the fields {', '.join(sorted(npy.EXPECTED_KEYS))}, and no others."
        )
    return fields


def _dtype_of(fields: Mapping[str, Any], name: str) -> "np.dtype[Any]":
    descr = fields["descr"]
    if not (isinstance(descr, str) and _NUMBERS.fullmatch(descr)):
        raise InvalidRequest(
            f"{name} holds {str(descr)[:40]!r}; send whole numbers, floats of 2 to 8 bytes, or booleans."
        )
    return np.dtype(descr)


def _shape_of(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = fields["shape"]
    if not (isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)):
        raise InvalidRequest(f"the shape of {name} is {str(shape)[:40]}; send whole numbers from 0 on.")
    return tuple(shape)


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a member, at most its declared size. Without one, zipfile would inflate everything."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def _check_end(body: bytes) -> None:
    """Refuse a zip archive with a directory that is too long, or not at the end.

    zipfile makes an object of each member before they can be counted.
    """
    if len(body) < _END.size:
        raise InvalidRequest("the body is not a .npz file: it is too short.")
    signature, *_, listed, _, comment = _END.unpack(body[-_END.size :])
    if signature != b"PK\5\6" or comment:
        raise InvalidRequest(
            "the body is not a .npz file, as numpy.savez writes: it does not end as a zip archive does."
        )
    # "PK\6\7" would lead zipfile to the directory of an archive beyond 4 GiB, which may have any length.
    if listed > _MOST_LISTED or body[-_END.size - 20 :].startswith(b"PK\6\7"):
        raise InvalidRequest(f"the directory of the .npz file has more than {_MOST_LISTED} bytes. Send fewer members.")


def _check_members(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    names = [one.filename for one in members]
    for one in members:
        if not one.filename.endswith(".npy"):
            raise InvalidRequest(
                f"the .npz file has {one.filename[:40]!r}; each member must be a .npy file that is named after an "
                f"input."
            )
        if one.flag_bits & _ENCRYPTED or one.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InvalidRequest(
                f"{one.filename} is encrypted, or compressed in a way that numpy does not use. Write it with "
                f"numpy.savez."
            )
    if len(set(names)) != len(names):
        raise InvalidRequest("the .npz file has two members of the same name; send each input once.")
    total = sum(one.file_size for one in members)
    if total > max_bytes:
        raise BodyTooLarge(
            f"the .npz file has {total} bytes when inflated; {max_bytes} are accepted. Send fewer rows at a time."
        )
