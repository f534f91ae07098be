"""Open a pool by its path."""

from collections.abc import Sequence
from pathlib import Path

from dropout_core.errors import InvalidInput
from mcdrop.pool.readers.base import Pool
from mcdrop.pool.readers.columns import SpecialColumns
from mcdrop.pool.readers.csv import csv_pool
from mcdrop.pool.readers.images import image_pool
from mcdrop.pool.readers.numpy import npy_pool, npz_pool
from mcdrop.pool.readers.parquet import parquet_pool
from mcdrop_models.bundle.manifest import InputSpec


def open_pool(path: Path, specs: Sequence[InputSpec], apart: SpecialColumns, pixel_scale: float | None) -> Pool:
    """Open a .npy, .npz, .parquet or .csv file, or a folder of images, as rows for a model.

    Args:
        path: The file or folder.
        specs: The inputs of the model.
        apart: The columns that hold ids and costs.
        pixel_scale: Factor of pixel values 0 … 255, for a folder of images.

    Returns:
        The pool.

    Raises:
        InvalidInput: The path is none of these, or does not fit the model.
    """
    by_name = {spec.name: spec for spec in specs}
    if pixel_scale is not None and not path.is_dir():
        raise InvalidInput(f"a pixel scale is for folders of pictures; {path} is none. Leave it out.")
    if apart.names and (path.is_dir() or path.suffix not in (".csv", ".parquet")):
        raise InvalidInput(f"{path} has no columns with names; leave out the column {apart.names[0]!r}.")
    if path.is_dir():
        return image_pool(path, by_name, pixel_scale)
    if path.suffix == ".npz":
        return npz_pool(path, by_name)
    if path.suffix == ".parquet":
        return parquet_pool(path, by_name, apart)
    if path.suffix == ".csv":
        return csv_pool(path, by_name, apart)
    if path.suffix == ".npy":
        return npy_pool(path, by_name)
    raise InvalidInput(f"{path} is no pool that is read: .npy, .npz, .parquet, .csv, or a folder of pictures.")
