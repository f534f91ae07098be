"""How many rows and passes go at once: from the largest values of one row, never from the number of passes."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from dropout_core.engine.masks import num_units, quiet
from dropout_core.engine.options import PassOptions
from dropout_core.graph.program import Site
from dropout_core.noise.limits import BLOCK

# Suffix rows whose largest value fills this much: on the CPU the fastest of 128 KiB to 4 MiB for a small CNN; on a GPU
# not measured, large enough to fill it.
_CHUNK_BYTES = {"cpu": 2**20, "cuda": 512 * 2**20}
_MIN_CHUNK_ROWS = 8
_MIN_CHUNK_BYTES = 64 * 2**20  # fewer rows than those where one adds more than an eighth of it: large images
_BOUNDARY_BYTES = 64 * 2**20
_MASK_UNITS = 2**21
_MASK_PASSES = 32

Result = TypeVar("Result")


@dataclass(frozen=True)
class Chunks:
    """Rows of the prefix and of the suffix at once, rows whose boundary is held, passes whose noise is held.

    thinned_rows: of the suffix where passes are thinned.
    """

    prefix_rows: int
    suffix_rows: int
    thinned_rows: int
    block_rows: int
    mask_passes: int
    block_passes: int

    def groups(self, options: PassOptions, *, in_blocks: bool) -> list[range]:
        """The passes whose noise is made together. in_blocks: no more than a block of 16 at a time."""
        size = self.block_passes if options.sampling == "balanced" else self.mask_passes
        size = min(size, BLOCK) if in_blocks else size
        size = max(size // options.branches, 1) * options.branches
        return [range(first, min(first + size, options.passes)) for first in range(0, options.passes, size)]

    def passes(self, num_rows: int, suffix_rows: int) -> int:
        """How many passes of so many rows go at once: a whole number of blocks, or a power of two within one."""
        passes = max(1, suffix_rows // num_rows)
        return passes // BLOCK * BLOCK if passes >= BLOCK else 1 << (passes.bit_length() - 1)


class Footprint:
    """What a row adds to values, seen in runs of two rows and then of one; the draws of sites, and their inputs.

    Weights, and the noise on them, are as large for any number of rows. widths: of the inputs that are matrices.
    single: the inputs of the sites of one draw a pass, of the last run. given: the bytes of what comes from elsewhere.
    likes: the shapes and types of the inputs of sites, of the last run, in the memory of one number each.
    """

    def __init__(self) -> None:
        self._nbytes: dict[str, list[int]] = {}
        self._units: dict[str, int] = {}
        self.widths: dict[str, int] = {}
        self.single: dict[str, Tensor] = {}
        self.given: dict[str, int] = {}
        self.likes: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Any) -> None:
        """Look at the value of a node."""
        if isinstance(value, Tensor):
            self._nbytes.setdefault(name, []).append(math.prod(value.shape) * value.element_size())

    def noise(self, site: Site, value: Tensor) -> Tensor:
        """The value of a site with its noise off."""
        self._units[site.name] = num_units(site, value)
        self.likes[site.name] = torch.zeros((), dtype=value.dtype).expand(value.shape)
        if self._units[site.name] == 1:
            self.single[site.name] = value
        if value.dim() == 2:
            self.widths[site.name] = value.shape[1]
        return quiet(site, value)

    @property
    def nbytes(self) -> dict[str, int]:
        """The bytes of every value of two rows, those it was given too."""
        return {name: max(sizes) for name, sizes in self._nbytes.items()} | self.given

    def row_bytes(self, thinned: Collection[str] = ()) -> int:
        """What a row adds to the value to which it adds most, at least 1. thinned: values that are about halved."""
        added = {name: max(sizes) - min(sizes) for name, sizes in self._nbytes.items()}
        return max((size // 2 if name in thinned else size for name, size in added.items()), default=0) or 1

    @property
    def num_units(self) -> int:
        """The draws of a pass, at least 1."""
        return sum(self._units.values()) or 1


@dataclass(frozen=True)
class FootprintProbe:
    """What a row does to a network's values. output: one row of it. crossing_bytes: of its boundary."""

    prefix: Footprint
    suffix: Footprint
    output: Tensor
    crossing_bytes: int

    def chunks(self, chunk_bytes: int | None, thinned: Collection[str] = ()) -> Chunks:
        """The chunks of such rows, see `chunks_of`."""
        return chunks_of(self.prefix, self.suffix, thinned, self.crossing_bytes, chunk_bytes, self.output.device)


def chunks_of(
    prefix: Footprint,
    suffix: Footprint,
    thinned: Collection[str],
    crossing_bytes: int,
    chunk_bytes: int | None,
    device: torch.device,
) -> Chunks:
    """The chunks for what one row needs.

    thinned: the values of the suffix that can be. crossing_bytes: of the boundary. chunk_bytes: None for the usual.
    """
    budget = chunk_bytes or _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cuda"])
    suffix_rows = _rows_within(budget, suffix.row_bytes())
    num_units = suffix.num_units
    return Chunks(
        prefix_rows=_rows_within(budget, prefix.row_bytes()),
        suffix_rows=suffix_rows,
        thinned_rows=max(suffix_rows, budget // suffix.row_bytes(thinned)),
        block_rows=max(suffix_rows, _BOUNDARY_BYTES // max(1, crossing_bytes)),
        mask_passes=min(_MASK_PASSES, max(1, _MASK_UNITS // num_units)),
        block_passes=_MASK_PASSES if num_units <= _MASK_UNITS else BLOCK,
    )


def _rows_within(budget: int, row_bytes: int) -> int:
    few = min(_MIN_CHUNK_ROWS, _MIN_CHUNK_BYTES // row_bytes)
    return max(1, few, budget // row_bytes)


def run_with_fewer_rows(rows: int, attempt: Callable[[int], Result]) -> tuple[Result, int]:
    """The result of an attempt on so many rows at once, or on half as many, and so on, where memory runs out."""
    while True:
        try:
            return attempt(rows), rows
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        rows = max(1, rows // 2)  # outside of the except clause, which keeps the attempt's tensors alive
