import io
import math
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdrop.errors import BodyTooLarge, InvalidRequest
from mcdrop.wire.npy import read_npy, read_npz, write_npy, write_npz

DTYPES = ["?", "i1", "u1", "<i2", ">i4", "<i8", ">u8", "<f2", ">f4", "<f4", "<f8"]
SHAPES = [(), (0,), (3,), (2, 3), (2, 0, 3), (2, 3, 4)]
SMALL = np.arange(6, dtype="<f4").reshape(2, 3)
LIMIT = 10_000


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def savez(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def zipped(members, compression=zipfile.ZIP_STORED):
    """A zip of bytes, as (name, content): names may come twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of names that come twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def with_header(header, numbers=b"", version=1, length=None):
    """A .npy file with a header of our own."""
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + numbers


def described(descr="'<f4'", order="False", shape="(2, 3)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


def same(found, wanted):
    return found.dtype == wanted.dtype and found.shape == wanted.shape and np.array_equal(found, wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_numpy_saves_is_read_as_it_was(dtype, shape):
    values = (np.arange(math.prod(shape)) % 2).reshape(shape).astype(dtype)

    for array in (values, np.asfortranarray(values)):
        found = read_npy(saved(array))
        assert same(found, array)
        assert found.flags.writeable
        assert found.flags.aligned


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_format_is_read(version):
    assert same(read_npy(with_header(described(), SMALL.tobytes(), version)), SMALL)


def test_headers_of_other_writers_are_read():
    header = b'{"shape":(2,3),"fortran_order":False,"descr":"<f4"}'

    assert same(read_npy(with_header(header, SMALL.tobytes())), SMALL)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_arrays_are_read_by_name(save):
    found = read_npz(savez(save, a=SMALL, b=np.arange(3)), LIMIT)

    assert list(found) == ["a", "b"]
    assert same(found["a"], SMALL)
    assert same(found["b"], np.arange(3))


def test_what_is_written_numpy_loads_without_pickle():
    members = {"mean": SMALL, "model": "Ziffern é", "version": 3, "seed": 2**63 - 1, "labels": ("a", "bc"), "p": 0.5}
    written = write_npz(members)

    with np.load(io.BytesIO(written), allow_pickle=False) as archive:
        assert list(archive) == list(members)
        for name, value in members.items():
            assert same(archive[name], np.asarray(value)), name
    assert write_npz(members) == written


def test_what_only_pickle_could_write_is_not_written():
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npy([{}])


HOSTILE = {
    "nothing": (b"", "not a .npy file"),
    "a word": (b"hello, world", "not a .npy file"),
    "only the magic word": (b"\x93NUMPY", "not a .npy file"),
    "a version to come": (with_header(described(), b"", 4), "version 4"),
    "no length": (b"\x93NUMPY\1\0", "beyond the file"),
    "a header beyond the file": (with_header(described(), length=4000), "beyond the file"),
    "a huge header": (with_header(b" " * 5000 + described(), SMALL.tobytes(), 2), "4096 bytes"),
    "a header of 4 GiB": (with_header(described(), b"", 2, length=2**32 - 1), "beyond the file"),
    "no literal": (with_header(b"import os"), "cannot be read"),
    "a call": (with_header(described(descr="exit()")), "cannot be read"),
    "a deep header": (with_header(b"[" * 4000), "cannot be read"),
    "a list": (with_header(b"[1, 2]"), "must have the fields descr, fortran_order, shape"),
    "a field too few": (with_header(b"{'descr': '<f4', 'shape': (2, 3)}"), "must have"),
    "a field too many": (with_header(described(shape="(2, 3), 'x': 1")), "must have"),
    "an order of 1": (with_header(described(order="1"), SMALL.tobytes()), "must have"),
    "objects": (with_header(described("'|O'")), "holds '|O'"),
    "texts": (with_header(described("'<U4'")), "holds '<U4'"),
    "complex numbers": (with_header(described("'<c8'")), "holds '<c8'"),
    "times": (with_header(described("'<M8[s]'")), "holds"),
    "long doubles": (with_header(described("'<f16'")), "holds '<f16'"),
    "fields": (with_header(described("[('a', '<f4')]")), "holds"),
    "a negative size": (with_header(described(shape="(-1, 3)")), "the shape of"),
    "a size of 1.5": (with_header(described(shape="(1.5, 3)")), "the shape of"),
    "a size of True": (with_header(described(shape="(True, 3)")), "the shape of"),
    "a size beyond 64 bits": (with_header(described(shape=f"({2**70},)")), "the shape of"),
    "a shape that is a number": (with_header(described(shape="2")), "the shape of"),
    "petabytes": (with_header(described(shape=f"({2**40}, {2**10})")), "has 0 bytes of numbers"),
    "a product that wraps around": (with_header(described(shape=f"({2**32}, {2**32})")), "has 0 bytes of numbers"),
    "no numbers of a huge shape": (with_header(described(shape=f"(0, {2**62}, {2**62})")), "cannot have the shape"),
    "too many dimensions": (with_header(described(shape=f"({'1, ' * 65})"), b"1234"), "cannot have the shape"),
    "a number too few": (with_header(described(), SMALL.tobytes()[:-1]), "has 23 bytes of numbers"),
    "a byte too many": (with_header(described(), SMALL.tobytes() + b"x"), "has 25 bytes of numbers"),
    "a truth of 2": (with_header(described("'|b1'", shape="(2,)"), b"\1\2"), "other than 0 and 1"),
}


@pytest.mark.parametrize(("body", "said"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_array_is_refused(body, said):
    with pytest.raises(InvalidRequest) as refusal:
        read_npy(body)
    assert said in str(refusal.value)
    with pytest.raises(InvalidRequest) as refusal:
        read_npz(zipped([("x.npy", body)]), LIMIT)
    assert said in str(refusal.value)


def patched(body, find, replace, count=-1):
    assert find in body
    return body.replace(find, replace, count)


GOOD = zipped([("x.npy", saved(SMALL))])
BOMB_BYTES = 4_000_000
BOMB = zipped([("x.npy", bytes(BOMB_BYTES))], zipfile.ZIP_DEFLATED)
HOSTILE_ZIPS = {
    "nothing": (b"", "too short"),
    "a word": (b"hello, world" * 9, "does not end as a zip archive does"),
    "an array": (saved(SMALL), "does not end as a zip archive does"),
    "cut off": (GOOD[:-1], "does not end as a zip archive does"),
    "a comment": (GOOD[:-2] + b"\1\0x", "does not end as a zip archive does"),
    "a long list of members": (zipped([(f"{i}.npy", b"") for i in range(1500)]), "the directory of the .npz file"),
    "another list": (GOOD[:-22] + b"PK\6\7" + bytes(16) + GOOD[-22:], "the directory of the .npz file"),
    "a member twice": (zipped([("x.npy", saved(SMALL))] * 2), "two members of the same name"),
    "a member of another kind": (zipped([("x.txt", b"hello")]), "'x.txt'"),
    "another compression": (zipped([("x.npy", saved(SMALL))], zipfile.ZIP_LZMA), "compressed in a way that numpy"),
    "an encrypted member": (
        patched(GOOD, b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"), "encrypted",
    ),
    "other numbers than were summed": (patched(GOOD, SMALL.tobytes(), bytes(24)), "Bad CRC-32"),
    "a list elsewhere": (GOOD[:-6] + struct.pack("<IH", 2**31, 0), "not a .npz file"),
    "another name inside": (patched(GOOD, b"x.npy", b"y.npy", 1), "differ"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "said"), HOSTILE_ZIPS.values(), ids=HOSTILE_ZIPS.keys())
def test_a_hostile_zip_is_refused(body, said):
    with pytest.raises(InvalidRequest) as refusal:
        read_npz(body, LIMIT)
    assert said in str(refusal.value)


def test_a_zip_is_inflated_up_to_the_bound():
    size = len(saved(SMALL))
    body = savez(np.savez_compressed, a=SMALL, b=SMALL)

    assert len(read_npz(body, 2 * size)) == 2
    with pytest.raises(BodyTooLarge, match=f"has {2 * size} bytes when inflated; {2 * size - 1} are accepted"):
        read_npz(body, 2 * size - 1)


def test_no_more_is_inflated_than_a_member_says():
    """It says 128 bytes, and its compressed ones make four million."""
    body = patched(BOMB, struct.pack("<I", BOMB_BYTES), struct.pack("<I", 128))
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match=r"is not a [.]npz file"):
        read_npz(body, LIMIT)
    assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES / 10
    tracemalloc.stop()


mutations = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6)


def mutated(body, changes):
    wrong = bytearray(body)
    for place, value in changes:
        wrong[place % len(wrong)] = value
    return bytes(wrong)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([saved(SMALL), saved(np.zeros((2, 2), bool)), with_header(described(), bytes(24), 3)]), mutations
)
def test_a_changed_array_is_read_or_refused(body, changes):
    try:
        found = read_npy(mutated(body, changes))
    except InvalidRequest:
        return
    assert found.nbytes <= len(body)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([savez(x=SMALL), savez(np.savez_compressed, x=SMALL), savez(a=SMALL, b=SMALL)]), mutations)
def test_a_changed_zip_is_read_or_refused(body, changes):
    try:
        found = read_npz(mutated(body, changes), LIMIT)
    except (InvalidRequest, BodyTooLarge):
        return
    assert sum(array.nbytes for array in found.values()) <= LIMIT
