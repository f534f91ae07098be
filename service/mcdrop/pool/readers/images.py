"""Pools of images in a folder, decoded to the input shape of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop.pool.readers.base import Array, Location, Rows, as_rows
from mcdrop.pool.readers.columns import extra
from mcdrop.pool.readers.fingerprint import stamp_of_files
from mcdrop_models.bundle.manifest import InputSpec

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
# what a picture may come as: 8 bits a colour, and nothing that shines through
_READABLE = {"1", "L", "P", "RGB"}


@dataclass(frozen=True)
class _Wanted:
    """The size and the colours of a picture, and the axis of the colours in a row; None: there is none."""

    width: int
    height: int
    mode: str
    axis: int | None


@dataclass(frozen=True)
class ImagePool:
    """The pictures of a folder and of those in it, by their names. scale: what a pixel of 0 … 255 is multiplied by."""

    path: Path
    stamp: str
    ids: tuple[str, ...]
    name: str
    spec: InputSpec
    wanted: _Wanted
    scale: float
    costs: Array | None = None

    @property
    def num_rows(self) -> int:
        """Number of images."""
        return len(self.ids)

    def parts(self, rows: Rows, size: int) -> Iterator[dict[str, Tensor]]:
        """See Pool."""
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            pictures = [self._picture(self.path / self.ids[row]) for row in some.tolist()]
            yield {self.name: torch.cat([as_rows(one[None], self.spec, Location(self.path, some)) for one in pictures])}

    def _picture(self, path: Path) -> Array:
        """Return an image as a row [*shape]."""
        library, wanted = extra("PIL.Image", path), self.wanted
        try:
            with library.open(path) as picture:
                self._check(path, picture.size, picture.mode)
                pixels = np.asarray(picture.convert(wanted.mode))
        except InvalidInput:
            raise
        except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
            raise InvalidInput(f"{path} cannot be read as a picture: {error}.") from error
        scaled = pixels if self.scale == 1 else (pixels * self.scale).astype(self.spec.dtype)
        if wanted.axis is None:
            return scaled
        return np.moveaxis(scaled.reshape(wanted.height, wanted.width, -1), 2, wanted.axis)

    def _check(self, path: Path, size: tuple[int, int], mode: str) -> None:
        """Refuse an image that does not fit, before it is decoded."""
        wanted = self.wanted
        if size != (wanted.width, wanted.height):
            raise InvalidInput(
                f"{path} is {size[0]} × {size[1]} pixels; the model takes {wanted.width} × {wanted.height}. Resize it "
                "as in training."
            )
        if mode not in _READABLE:
            raise InvalidInput(f"{path} has the mode {mode}; write it in grey or RGB, 8 bits a colour.")


def image_pool(path: Path, specs: Mapping[str, InputSpec], scale: float | None) -> ImagePool:
    """Open a folder of images.

    Args:
        path: The folder.
        specs: The inputs of the model, by name.
        scale: Factor of pixel values 0 … 255. By default floats range over 0 … 1 and integers over 0 … 255.

    Returns:
        The pool.
    """
    if len(specs) > 1:
        raise InvalidInput(f"{path} has pictures; the model takes {', '.join(specs)}. Put them into a .npz by name.")
    name, spec = next(iter(specs.items()))
    floats = spec.dtype.startswith("float")
    if scale is not None and not floats:
        raise InvalidInput(f"{name} takes {spec.dtype}, pixels as they are; leave the pixel scale out.")
    names = sorted(
        one.relative_to(path).as_posix() for one in path.rglob("*") if one.suffix.lower() in _SUFFIXES and one.is_file()
    )
    if not names:
        raise InvalidInput(f"{path} has no pictures: {', '.join(sorted(_SUFFIXES))} are read.")
    usual: float = 1 / 255 if floats else 1
    factor = usual if scale is None else scale
    return ImagePool(path, stamp_of_files(path, names), tuple(names), name, spec, _wanted_of(path, spec), factor)


def _wanted_of(path: Path, spec: InputSpec) -> _Wanted:
    """Height and width; with one or three colours before or after them."""
    shape: list[Any] = [size for size in spec.shape if isinstance(size, int)]
    if len(shape) == len(spec.shape) == 2:
        return _Wanted(shape[1], shape[0], "L", None)
    if len(shape) == len(spec.shape) == 3:
        axis = 0 if shape[0] in (1, 3) else 2
        colours = shape.pop(axis)
        if colours in (1, 3):
            return _Wanted(shape[1], shape[0], "L" if colours == 1 else "RGB", axis)
    raise InvalidInput(
        f"{path} has pictures; {spec.name} takes rows of shape [{', '.join(map(str, spec.shape))}]. Pictures are "
        "[H, W], [1, H, W], [3, H, W], [H, W, 1] or [H, W, 3]."
    )
