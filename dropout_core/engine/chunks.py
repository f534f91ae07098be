"""How many rows and passes run at once: determined by the largest values of one row, never by the number of passes."""

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

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Chunks:
    """Sizes of the work that is done at once.

    Attributes:
        prefix_rows: Rows of the prefix at once.
        suffix_rows: Rows times passes of the suffix at once.
        thinned_rows: The same where passes are thinned.
        block_rows: Rows whose boundary is held.
        mask_passes: Passes whose noise is held.
        block_passes: The same for balanced passes.
    """

    prefix_rows: int
    suffix_rows: int
    thinned_rows: int
    block_rows: int
    mask_passes: int
    block_passes: int

    def groups(self, options: PassOptions, *, in_blocks: bool) -> list[range]:
        """Return the passes whose noise is made together.

        Args:
            options: Which passes to run.
            in_blocks: Whether a group is at most one block of 16 passes.

        Returns:
            Ranges of passes.
        """
        size = self.block_passes if options.sampling == "balanced" else self.mask_passes
        size = min(size, BLOCK) if in_blocks else size
        size = max(size // options.branches, 1) * options.branches
        return [range(first, min(first + size, options.passes)) for first in range(0, options.passes, size)]

    def passes(self, num_rows: int, suffix_rows: int) -> int:
        """Return how many passes run at once: a whole number of blocks, or a power of two within one block.

        Args:
            num_rows: Number of rows.
            suffix_rows: Rows times passes that run at once.

        Returns:
            Number of passes, at least 1.
        """
        passes = max(1, suffix_rows // num_rows)
        return passes // BLOCK * BLOCK if passes >= BLOCK else 1 << (passes.bit_length() - 1)


class Footprint:
    """Records each value's size for a batch of two rows and of one; the difference is the memory that one row costs.

    Weights, and the noise on them, have the same size for any number of rows. `widths` holds the widths of site inputs
    that are matrices, `single` the last inputs of sites with one draw per pass, `given` the bytes of values from
    outside, and `likes` the last shapes and dtypes of site inputs, in the memory of one number each.
    """

    def __init__(self) -> None:
        self._nbytes: dict[str, list[int]] = {}
        self._units: dict[str, int] = {}
        self.widths: dict[str, int] = {}
        self.single: dict[str, Tensor] = {}
        self.given: dict[str, int] = {}
        self.likes: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Any) -> None:
        """Record the value of a node."""
        if isinstance(value, Tensor):
            self._nbytes.setdefault(name, []).append(math.prod(value.shape) * value.element_size())

    def noise(self, site: Site, value: Tensor) -> Tensor:
        """Return the value of a site with its noise off, and record its draws.

        Args:
            site: The site.
            value: Its input.

        Returns:
            The value.
        """
        self._units[site.name] = num_units(site, value)
        self.likes[site.name] = torch.zeros((), dtype=value.dtype).expand(value.shape)
        if self._units[site.name] == 1:
            self.single[site.name] = value
        if value.dim() == 2:
            self.widths[site.name] = value.shape[1]
        return quiet(site, value)

    @property
    def nbytes(self) -> dict[str, int]:
        """Return the bytes of every value of two rows, values from outside included."""
        return {name: max(sizes) for name, sizes in self._nbytes.items()} | self.given

    def row_bytes(self, thinned: Collection[str] = ()) -> int:
        """Return the bytes that a row adds to the value to which it adds most, at least 1.

        Args:
            thinned: Values that thinning about halves.

        Returns:
            Bytes.
        """
        added = {name: max(sizes) - min(sizes) for name, sizes in self._nbytes.items()}
        return max((size // 2 if name in thinned else size for name, size in added.items()), default=0) or 1

    @property
    def num_units(self) -> int:
        """The number of draws of a pass, at least 1."""
        return sum(self._units.values()) or 1


@dataclass(frozen=True)
class FootprintProbe:
    """The footprint of a network.

    Attributes:
        prefix: Footprint of the prefix.
        suffix: Footprint of the suffix.
        output: The output of one row.
        crossing_bytes: Bytes of the boundary of one row.
    """

    prefix: Footprint
    suffix: Footprint
    output: Tensor
    crossing_bytes: int

    def chunks(self, chunk_bytes: int | None, thinned: Collection[str] = ()) -> Chunks:
        """Return the chunk sizes for such rows.

        Args:
            chunk_bytes: Bytes that the largest value of a chunk may fill; None for the default.
            thinned: Values of the suffix that can be thinned.

        Returns:
            The sizes.
        """
        return chunks_of(self.prefix, self.suffix, thinned, self.crossing_bytes, chunk_bytes, self.output.device)


def chunks_of(
    prefix: Footprint,
    suffix: Footprint,
    thinned: Collection[str],
    crossing_bytes: int,
    chunk_bytes: int | None,
    device: torch.device,
) -> Chunks:
    """Return the chunk sizes for the memory that one row costs.

    Args:
        prefix: Footprint of the prefix.
        suffix: Footprint of the suffix.
        thinned: Values of the suffix that can be thinned.
        crossing_bytes: Bytes of the boundary of one row.
        chunk_bytes: Bytes that the largest value of a chunk may fill; None for the default.
        device: Device that computes.

    Returns:
        The sizes.
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


def run_with_fewer_rows(rows: int, attempt: Callable[[int], Outcome]) -> tuple[Outcome, int]:
    """Try to compute `rows` rows at once, and half as many each time the memory runs out.

    Args:
        rows: Rows of the first attempt.
        attempt: Computes with the given number of rows at once.

    Returns:
        The result, and the number of rows that succeeded.
    """
    while True:
        try:
            return attempt(rows), rows
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        rows = max(1, rows // 2)  # outside of the except clause, which keeps the attempt's tensors alive
