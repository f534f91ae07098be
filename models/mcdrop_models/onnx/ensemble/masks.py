"""The noise of all passes in a file: one bit for each unit that is dropped or kept, and numbers for other noise."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from dropout_core.engine.masks import Masks
from dropout_core.engine.options import PassOptions
from dropout_core.errors import InvalidInput
from dropout_core.graph.noise_kinds import NOISE_KINDS
from dropout_core.graph.program import Graph, Site
from dropout_core.graph.split import split, split_last
from mcdrop_models.onnx.graph.builder import Array, Nodes

_BYTE = 8


def noise_of(graph: Graph, likes: Mapping[str, Tensor], options: PassOptions) -> dict[int, Tensor]:
    """The draws of the passes 0 … T − 1 by the index of the site, as `Masks.draws` makes them.

    likes: by the name of each site a tensor like its input for one row. Noise on weights is [T, *shape]. Raises
    InvalidInput where each row has masks of its own: no file holds those of any number of rows.
    """
    if options.masks != "shared":
        raise InvalidInput(
            "the masks of this model are independent, each row has its own; a file holds those that all rows share. "
            "Publish it with masks='shared'."
        )
    late = {node.name for node in split_last(split(graph).suffix, graph.output).suffix}
    return {
        site.index: _branched(site, likes[site.name], options, options.passes)
        if options.branches > 1 and site.name not in late
        else _draws(site, likes[site.name], options, options.passes)
        for site in graph.sites
    }


def _branched(site: Site, like: Tensor, options: PassOptions, passes: int) -> Tensor:
    """Of a site whose noise `branches` passes share."""
    draws, axis = _draws(site, like, options, -(-passes // options.branches)), _axis(site)
    return draws.repeat_interleave(options.branches, axis).narrow(axis, 0, passes)


def _draws(site: Site, like: Tensor, options: PassOptions, passes: int) -> Tensor:
    masks, row = Masks(options, range(passes)), torch.zeros(1, dtype=torch.int64)
    if site.rows is not None:
        return masks.draws(site, like, 0, passes, row)
    return torch.stack([masks.draws(site, like, at, at + 1, row) for at in range(passes)])


def _axis(site: Site) -> int:
    """The axis of the passes among the draws of all of them."""
    return 0 if site.rows is None else site.rows.axis + 1


@dataclass(frozen=True)
class Stored:
    """The noise of one site in a file, passes outermost.

    array: [T, bytes] of eight units each, the first unit highest, where a unit is kept or not; else [T, *one]. one:
    the shape of one pass of draws. axis: where the passes lie among draws; None of noise on weights, which has no such
    axis. scale: of what is kept; None where draws are not scaled. element: the ONNX element type of the draws.
    """

    array: Array
    one: tuple[int, ...]
    axis: int | None
    scale: float | None
    element: int

    @property
    def packed(self) -> bool:
        """Whether there is a bit for each unit."""
        return self.array.dtype == np.uint8


def stored(site: Site, draws: Tensor) -> Stored:
    """The noise of a site as it is kept in a file. draws: of all passes, as `noise_of` gives them."""
    outermost = draws.movedim(_axis(site), 0).contiguous().cpu()
    axis = None if site.rows is None else site.rows.axis + 1
    one, array = tuple(outermost.shape[1:]), outermost.numpy()
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    if NOISE_KINDS[site.kind].rated:
        scale = None if element == TensorProto.BOOL else float(array.max(initial=0))
        return Stored(np.packbits(array.reshape(len(array), -1) != 0, axis=1), one, axis, scale, element)
    # random words are below 2^32
    return Stored(array.astype(np.uint32) if element == TensorProto.INT64 else array, one, axis, None, element)


def restored(noise: Stored, array: str, nodes: Nodes) -> str:
    """The draws of some passes. array: the name of these passes of the stored array."""
    if noise.packed:
        array = _unpacked(noise, array, nodes)
    if noise.packed or noise.array.dtype == np.uint32:
        array = nodes("Cast", array, to=noise.element)
    if noise.scale is not None:
        scale = np.array(noise.scale, helper.tensor_dtype_to_np_dtype(noise.element))
        array = nodes("Mul", array, nodes.constant(scale))
    return _placed(noise, array, nodes)


def _unpacked(noise: Stored, array: str, nodes: Nodes) -> str:
    """0 and 1, uint8 [t, units]."""
    shifts = nodes.constant(np.arange(_BYTE - 1, -1, -1, dtype=np.uint8))
    shifted = nodes("BitShift", nodes("Unsqueeze", array, nodes.integers(-1)), shifts, direction="RIGHT")
    bits = nodes("BitwiseAnd", shifted, nodes.constant(np.ones(1, np.uint8)))
    flat = nodes("Reshape", bits, nodes.integers(-1, noise.array.shape[1] * _BYTE))
    units = int(np.prod(noise.one))
    return nodes("Slice", flat, nodes.integers(0), nodes.integers(units), nodes.integers(1))


def _placed(noise: Stored, array: str, nodes: Nodes) -> str:
    """Draws of one shape a pass, with the passes where a site takes them."""
    if noise.axis is None:
        return nodes("Reshape", array, nodes.integers(*noise.one))
    before, after = noise.one[: noise.axis], noise.one[noise.axis :]
    if all(size == 1 for size in before):
        return nodes("Reshape", array, nodes.integers(*before, -1, *after))
    order = [*range(1, noise.axis + 1), 0, *range(noise.axis + 1, len(noise.one) + 1)]
    return nodes("Transpose", nodes("Reshape", array, nodes.integers(-1, *noise.one)), perm=order)
