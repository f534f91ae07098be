"""T passes over B rows: the prefix once, the suffix in chunks of bounded rows.

Peak memory depends on the chunk, never on T. One engine serves many threads: it holds structure, no state of a run.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dropout_core.mc.masks import Masks, num_units, quiet
from dropout_core.mc.program import Node, Operation, Program, Rows, Site, Stage, references, split

# Suffix rows whose largest value fills this much: on the CPU the fastest of 128 KiB to 4 MiB for a small CNN; on a GPU
# not measured, large enough to fill it.
_CHUNK_BYTES = {"cpu": 2**20, "cuda": 512 * 2**20}
_MIN_CHUNK_ROWS = 8
_BOUNDARY_BYTES = 64 * 2**20
_MASK_UNITS = 2**21
_MASK_PASSES = 32


@dataclass(frozen=True)
class Chunk:
    """The network's outputs [t, b, *out] for passes of some rows. Chunks of one `index` hold the same rows."""

    index: int
    outputs: Tensor


class Engine:
    """Runs a Program's structure on weights given with each call."""

    def __init__(self, program: Program) -> None:
        graph = program.graph
        parts = split(graph)
        (self._input,) = graph.inputs
        self._output = graph.output
        self._boundary = graph.boundary
        self._tiled = _read_by_operations(parts.suffix, graph.output)
        self._prefix = Stage(parts.prefix, keep=graph.boundary)
        self._suffix = Stage(parts.suffix, keep=[graph.output])
        self._one_pass_at_a_time = any(site.rows is None for site in graph.sites)
        self._measure(program)

    @property
    def looped(self) -> str:
        """Why passes run one by one, or an empty string when they are batched."""
        return "noise on weights takes one draw for each pass" if self._one_pass_at_a_time else ""

    def run(self, weights: Mapping[str, Tensor], x: Tensor, passes: int, seed: int) -> Iterator[Chunk]:
        """The outputs of passes 0 … T − 1 over the rows of x [B, *F], in chunks: rows in order, then passes."""
        if len(x) == 0:
            yield Chunk(0, x.new_zeros((passes, 0, *self._out_shape), dtype=self._out_dtype))
            return
        index = 0
        for block in x.split(self._block_rows):
            boundaries = [self._cross(weights, rows) for rows in block.split(self._chunk_rows)]
            for first in range(0, passes, self._mask_passes):
                count = min(self._mask_passes, passes - first)
                masks = Masks(seed, first, count)
                for offset, boundary in enumerate(boundaries):
                    yield from self._passes(weights, boundary, masks, count, index + offset)
            index += len(boundaries)

    def _passes(
        self, weights: Mapping[str, Tensor], boundary: "_Boundary", masks: Masks, count: int, index: int
    ) -> Iterator[Chunk]:
        step = 1 if self._one_pass_at_a_time else max(1, self._chunk_rows // boundary.num_rows)
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield Chunk(index, self._suffix_outputs(weights, boundary, masks, start, stop))

    @torch.inference_mode()
    def _cross(self, weights: Mapping[str, Tensor], rows: Tensor) -> "_Boundary":
        """The prefix for some rows: all that the suffix needs of it."""
        parts = [self._run_prefix(weights, part) for part in rows.split(self._prefix_rows)]
        values = {name: _join([part[name] for part in parts], where) for name, where in self._boundary.items()}
        return _Boundary(len(rows), rows.device, values)

    def _run_prefix(self, weights: Mapping[str, Tensor], rows: Tensor) -> dict[str, Any]:
        return self._prefix.run({**weights, self._input.name: rows}, len(rows), rows.device, quiet)

    @torch.inference_mode()
    def _suffix_outputs(
        self, weights: Mapping[str, Tensor], boundary: "_Boundary", masks: Masks, start: int, stop: int
    ) -> Tensor:
        passes, rows = stop - start, boundary.num_rows
        values: dict[str, Any] = dict(weights)
        for name, value in boundary.values.items():
            values[name] = _tile(value, self._boundary[name], passes, rows) if name in self._tiled else value

        def noise(site: Site, value: Any) -> Tensor:
            return masks.apply(site, value, start, stop, rows)

        outputs: Tensor = self._suffix.run(values, passes * rows, boundary.device, noise)[self._output]
        return outputs.reshape(passes, rows, *outputs.shape[1:])

    @torch.inference_mode()
    def _measure(self, program: Program) -> None:
        """Chunk sizes, from the largest values of one row of zeros."""
        row = torch.zeros((1, *self._input.shape), dtype=self._input.dtype, device=program.device)
        units: list[int] = []

        def noise(site: Site, value: Any) -> Any:
            units.append(num_units(site, value))
            return quiet(site, value)

        prefix, suffix = _Largest(), _Largest()
        values = self._prefix.run({**program.weights, self._input.name: row}, 1, row.device, quiet, prefix)
        crossing = sum(values[name].nbytes for name, rows in self._boundary.items() if rows is not None)
        values = self._suffix.run({**program.weights, **values}, 1, row.device, noise, suffix)
        out = values[self._output]
        self._out_shape, self._out_dtype = out.shape[1:], out.dtype
        budget = _CHUNK_BYTES.get(row.device.type, _CHUNK_BYTES["cuda"])
        self._prefix_rows = max(_MIN_CHUNK_ROWS, budget // max(1, prefix.nbytes))
        self._chunk_rows = max(_MIN_CHUNK_ROWS, budget // max(1, suffix.nbytes))
        self._block_rows = max(self._chunk_rows, _BOUNDARY_BYTES // max(1, crossing))
        self._mask_passes = min(_MASK_PASSES, max(1, _MASK_UNITS // max(1, sum(units))))


@dataclass(frozen=True)
class _Boundary:
    """What some rows' suffix needs of their prefix."""

    num_rows: int
    device: torch.device
    values: Mapping[str, Tensor]


class _Largest:
    """Observes the bytes of the largest value."""

    nbytes = 0

    def __call__(self, _: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.nbytes = max(self.nbytes, math.prod(value.shape) * value.element_size())


def _read_by_operations(nodes: tuple[Node, ...], output: str) -> set[str]:
    """The values that need a copy for each pass. A site spreads what it reads over passes by itself."""
    return {output, *(name for node in nodes if isinstance(node, Operation) for name in references(node))}


def _join(parts: list[Tensor], where: Rows | None) -> Tensor:
    """One boundary value of several prefix chunks, joined along its rows."""
    if where is None or len(parts) == 1:
        return parts[0]
    axis = where.axis
    unfolded = [part.unflatten(axis, (where.before, -1, where.after)) for part in parts]
    return torch.cat(unfolded, dim=axis + 1).flatten(axis, axis + 2)


def _tile(value: Tensor, where: Rows | None, passes: int, num_rows: int) -> Tensor:
    """A boundary value once for each pass, passes outside rows."""
    if where is None or passes == 1:
        return value
    axis = where.axis
    unfolded: Tensor = value.unflatten(axis, (where.before, 1, num_rows, where.after))
    sizes = list(unfolded.shape)
    sizes[axis + 1] = passes
    return unfolded.expand(sizes).flatten(axis, axis + 3)
