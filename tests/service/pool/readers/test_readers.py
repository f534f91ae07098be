"""Every reader gives the rows that are asked for, in parts, and says where a number lies that does not fit."""

import csv
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dropout_core.errors import InvalidInput
from mcdrop.pool.readers.columns import SpecialColumns
from mcdrop.pool.readers.open import open_pool
from mcdrop_models.bundle.manifest import InputSpec

SQUARE = InputSpec(name="x", shape=(3, 4), dtype="float32")
LINE = InputSpec(name="x", shape=(12,), dtype="float32")
NONE = SpecialColumns()
X = np.random.default_rng(0).integers(0, 9, (23, 3, 4)).astype(np.float32)
FLAT = X.reshape(23, 12)
NAMES = [f"c{place}" for place in range(12)]
IDS = [f"row-{number}" for number in range(23)]


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def npy(folder):
    np.save(folder / "a.npy", X)
    return folder / "a.npy", NONE


def columnwise(folder):
    np.save(folder / "a.npy", np.asfortranarray(X))
    return folder / "a.npy", NONE


def integers(folder):
    np.save(folder / "a.npy", X.astype(">i2"))
    return folder / "a.npy", NONE


def npz(folder):
    np.savez(folder / "a.npz", x=X)
    return folder / "a.npz", NONE


def compressed(folder):
    np.savez_compressed(folder / "a.npz", x=np.asfortranarray(X))
    return folder / "a.npz", NONE


def comma(folder):
    rows = [[IDS[number], *row] for number, row in enumerate(FLAT)]
    return write_csv(folder / "a.csv", ["id", *NAMES], rows), SpecialColumns(ids="id")


def columns(folder):
    table = {"id": IDS, **{name: FLAT[:, place] for place, name in enumerate(NAMES)}}
    pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=7)
    return folder / "a.parquet", SpecialColumns(ids="id")


def lists(folder):
    """Of the name of the input, among other columns."""
    pq.write_table(pa.table({"id": IDS, "x": FLAT.tolist()}), folder / "a.parquet", row_group_size=10)
    return folder / "a.parquet", NONE


def squares(folder):
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 4)
    table = pa.table({"pixels": pa.FixedSizeListArray.from_arrays(fixed, 3)})
    pq.write_table(table, folder / "a.parquet", row_group_size=10)
    return folder / "a.parquet", NONE


def pictures(folder):
    for number, row in enumerate(X):
        place = folder / f"{number // 10}" / f"{number:02}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(row.astype(np.uint8)).save(place)
    (folder / "notes.txt").write_text("no picture")
    return folder, NONE


FORMS = [npy, columnwise, integers, npz, compressed, comma, columns, lists, squares, pictures]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("rows", [range(23), [0, 1, 3, 8, 9, 22], [21], []], ids=["all", "some", "one", "none"])
def test_rows_come_in_parts_and_in_order(tmp_path, form, size, rows):
    path, apart = form(tmp_path)
    pool = open_pool(path, (SQUARE,), apart, 1.0 if form is pictures else None)
    rows = np.array(rows, dtype=np.int64)
    parts = [part["x"].numpy() for part in pool.parts(rows, size)]
    assert pool.num_rows == 23
    assert [len(part) for part in parts] == [min(size, len(rows) - start) for start in range(0, len(rows), size)]
    assert all(part.dtype == np.float32 for part in parts)
    if len(rows):
        assert np.array_equal(np.concatenate(parts), X[rows])


@pytest.mark.parametrize("form", [comma, columns], ids=["csv", "parquet"])
def test_tables_name_their_rows(tmp_path, form):
    path, apart = form(tmp_path)
    assert open_pool(path, (SQUARE,), apart, None).ids == IDS


def test_pictures_are_named_by_their_paths(tmp_path):
    pool = open_pool(*pictures(tmp_path)[:1], (SQUARE,), NONE, None)
    assert pool.ids == tuple(f"{number // 10}/{number:02}.png" for number in range(23))
    assert np.allclose(next(pool.parts(np.array([3]), 1))["x"], X[3] / 255)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_costs_come_from_a_column(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        write_csv(path, ["price", "a"], [[1.5, 2], [3, 4]])
    else:
        pq.write_table(pa.table({"price": [1.5, 3.0], "a": [2, 4]}), path)
    pool = open_pool(path, (InputSpec(name="x", shape=(1,), dtype="float32"),), SpecialColumns(costs="price"), None)
    assert pool.costs.tolist() == [1.5, 3.0]
    assert next(pool.parts(np.arange(2), 2))["x"].tolist() == [[2.0], [4.0]]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_several_inputs_are_found_by_name(tmp_path, suffix):
    specs = (InputSpec(name="size", shape=(), dtype="int64"), InputSpec(name="age", shape=(), dtype="float64"))
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        write_csv(path, ["age", "other", "size"], [[0.5, "?", 2], [1.5, "?", 3]])
    elif suffix == "parquet":
        pq.write_table(pa.table({"age": [0.5, 1.5], "other": ["?", "?"], "size": [2, 3]}), path)
    else:
        np.savez(path, size=np.array([2, 3]), age=np.array([0.5, 1.5]))
    part = next(open_pool(path, specs, NONE, None).parts(np.arange(2), 2))
    assert (part["size"].tolist(), part["age"].tolist()) == ([2, 3], [0.5, 1.5])


@pytest.mark.parametrize(
    ("shape", "mode"), [((3, 4), "L"), ((1, 3, 4), "L"), ((5, 4, 1), "L"), ((3, 5, 4), "RGB"), ((5, 4, 3), "RGB")]
)
def test_pictures_take_the_shape_of_the_input(tmp_path, shape, mode):
    """An input that takes whole numbers takes the pixels as they are."""
    size = (3, 4) if 5 not in shape else (5, 4)
    pixels = np.random.default_rng(1).integers(0, 256, (*size, *([3] if mode == "RGB" else [])), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = np.moveaxis(pixels, 2, 0) if shape == (3, 5, 4) else pixels.reshape(shape)
    spec = InputSpec(name="x", shape=shape, dtype="int64")
    assert np.array_equal(next(open_pool(tmp_path, (spec,), NONE, None).parts(np.arange(1), 1))["x"][0], wanted)


def text(path, content):
    path.write_text(content)
    return path


def table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def array(path, values, **more):
    np.save(path, values, **more)
    return path


def cut(path):
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-1])
    return path


def picture(folder, size=(4, 3), mode="L"):
    Image.new(mode, size).save(folder / "a.png")
    return folder


def nan_at(*place):
    values = FLAT.copy()
    values[place] = np.nan
    return values


BAD = {
    "a number that is not there": (lambda d: array(d / "a.npy", nan_at(17, 5)), "a.npy: row 17, column 5 is nan"),
    "a file that ends early": (lambda d: cut(d / "a.npy"), "it has 1103 bytes of numbers"),
    "objects": (lambda d: array(d / "a.npy", np.array([None]), allow_pickle=True), "objects of Python"),
    "another shape": (lambda d: array(d / "a.npy", np.zeros((2, 5))), r"row 0 has shape \[5\]; x takes float32"),
    "flat rows of squares": (lambda d: array(d / "a.npy", X), r"row 0 has shape \[3, 4\]; x takes"),
    "texts as rows": (lambda d: array(d / "a.npy", np.array(["a"])), "the array holds <U1"),
    "a single number": (lambda d: array(d / "a.npy", np.array(1.0)), "a single number"),
    "a word in a csv": (
        lambda d: text(d / "a.csv", f"{','.join(NAMES)}\n{'1,' * 11}1\n{'1,' * 6}x,{'1,' * 4}1\n"),
        "a.csv: row 1, column c6 is 'x'; a number is wanted",
    ),
    "infinity in a csv": (
        lambda d: text(d / "a.csv", f"{','.join(NAMES)}\ninf,{'1,' * 10}1\n"), "row 0, column c0 is inf",
    ),
    "a short line": (lambda d: text(d / "a.csv", f"{','.join(NAMES)}\n1,2\n"), "row 0 has 2 cells; the header has 12"),
    "no header": (lambda d: text(d / "a.csv", "1,2\n3,4\n"), "a line with the names of columns is wanted"),
    "two columns of a name": (lambda d: text(d / "a.csv", "a,a\n1,2\n"), "two columns 'a'"),
    "a null": (
        lambda d: table(d / "a.parquet", **{name: [1.0, None if name == "c3" else 2.0] for name in NAMES}),
        "row 1, column c3 is null",
    ),
    "a null in a list": (
        lambda d: table(d / "a.parquet", x=[[1.0] * 12, [1.0] * 11 + [None]]), "row 1, column x is null",
    ),
    "lists of several lengths": (lambda d: table(d / "a.parquet", x=[[1.0], [1.0, 2.0]]), "the lists of column x have"),
    "texts in a table": (lambda d: table(d / "a.parquet", x=["a"]), "the column x holds string"),
    "no parquet": (lambda d: text(d / "a.parquet", "hello, this is no table"), "cannot be read as a .parquet file"),
    "no npz": (lambda d: text(d / "a.npz", "hello"), "cannot be read as a .npz file"),
    "no file": (lambda d: d / "a.npy", "No such file"),
    "another file": (lambda d: text(d / "a.txt", "hello"), "is no pool that is read"),
    "an empty folder": (lambda d: d, "has no pictures"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "said"), BAD.values(), ids=BAD.keys())
def test_what_does_not_fit_is_named(tmp_path, made, said):
    with pytest.raises(InvalidInput, match=said):  # noqa: PT012 - some are found where they are opened
        pool = open_pool(made(tmp_path), (LINE,), NONE, None)
        list(pool.parts(np.arange(pool.num_rows), 4))


def broken(folder):
    (folder / "a.png").write_text("no picture")
    return folder


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda d: picture(d, (5, 3)), "a.png is 5 × 3 pixels; the model takes 4 × 3"),
        (lambda d: picture(d, mode="RGBA"), "a.png has the mode RGBA; write it in grey or RGB"),
        (lambda d: picture(d, mode="I;16"), "a.png has the mode I;16"),
        (broken, "a.png cannot be read as a picture"),
    ],
    ids=["size", "alpha", "16 bits", "broken"],
)
def test_a_picture_that_does_not_fit_is_named(tmp_path, made, said):
    pool = open_pool(made(tmp_path), (SQUARE,), NONE, None)
    with pytest.raises(InvalidInput, match=said):
        next(pool.parts(np.arange(1), 1))


@pytest.mark.parametrize(
    ("spec", "apart", "scale", "said"),
    [
        (SQUARE, SpecialColumns(ids="id"), None, "has no columns with names"),
        (SQUARE, NONE, 0.5, "a pixel scale is for folders of pictures"),
    ],
    ids=["columns", "pixels"],
)
def test_what_an_array_has_not_is_refused(tmp_path, spec, apart, scale, said):
    with pytest.raises(InvalidInput, match=said):
        open_pool(npy(tmp_path)[0], (spec,), apart, scale)


def test_pictures_are_for_inputs_of_their_shape(tmp_path):
    with pytest.raises(InvalidInput, match=r"x takes rows of shape \[12\]. Pictures are"):
        open_pool(pictures(tmp_path)[0], (LINE,), NONE, None)
    with pytest.raises(InvalidInput, match="x takes int64, pixels as they are"):
        open_pool(tmp_path, (InputSpec(name="x", shape=(3, 4), dtype="int64"),), NONE, 0.5)


def test_a_changed_file_has_another_stamp(tmp_path):
    path, _ = npy(tmp_path)
    before = open_pool(path, (SQUARE,), NONE, None).stamp
    assert open_pool(path, (SQUARE,), NONE, None).stamp == before
    np.save(path, X + 1)
    changed = open_pool(path, (SQUARE,), NONE, None).stamp
    assert changed != before
    os.utime(path, (1, 1))  # where the change may be in the middle, only its time tells
    assert open_pool(path, (SQUARE,), NONE, None).stamp != changed


def test_a_changed_picture_is_another_pool(tmp_path):
    before = open_pool(pictures(tmp_path)[0], (SQUARE,), NONE, None).stamp
    assert open_pool(tmp_path, (SQUARE,), NONE, None).stamp == before
    (tmp_path / "0" / "00.png").rename(tmp_path / "0" / "new.png")
    assert open_pool(tmp_path, (SQUARE,), NONE, None).stamp != before
