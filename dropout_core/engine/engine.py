"""T passes over B rows: the prefix once, the suffix in chunks of bounded rows.

Peak memory depends on the chunk, never on T. One engine serves many threads: it holds structure, and bounded caches of
noise and of thinned weights, but no state of a run.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dropout_core.engine.boundary import Boundary, join
from dropout_core.engine.chunks import run_with_fewer_rows
from dropout_core.engine.network import ExecutionPlan, Network, PassGroup, PassNoise, Section
from dropout_core.engine.noise_cache import NoiseCache
from dropout_core.engine.options import PassOptions
from dropout_core.engine.torch_network import TorchNetwork
from dropout_core.engine.tuning import Tuning
from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors, inputs_by_name, num_rows, select_rows, sizes_of, split_rows
from dropout_core.graph.program import ROWS, Program

_MAX_PLANS = 64
# Of a longer run the groups would push one another out before they are wanted again.
_MOST_KEPT_PASSES = 128

RowsNeeded = Callable[[int], Tensor | None]


@dataclass(frozen=True)
class Chunk:
    """The network's outputs for some passes of some rows.

    Attributes:
        index: Chunks with one index hold the same rows.
        outputs: [t, b, *out].
        prefix_s: Seconds that the prefix took so far; on a GPU, the seconds of submitting its work.
    """

    index: int
    outputs: Tensor
    prefix_s: float = 0.0


@dataclass
class _Run:
    """One call of `run`. prefix_rows and suffix_rows shrink when a device runs out of memory."""

    weights: Mapping[str, Tensor]
    plan: ExecutionPlan
    options: PassOptions
    device: torch.device
    prefix_rows: int
    suffix_rows: int
    prefix_s: float = 0.0


class Engine:
    """Runs a program's structure on weights that are given with each call.

    Args:
        program: The program.
        tuning: Choices measured on this machine; the defaults otherwise.
        network: Computes the halves of the network; torch by default.
    """

    def __init__(self, program: Program, tuning: Tuning | None = None, network: Network | None = None) -> None:
        self._graph = program.graph
        self.network = TorchNetwork(program) if network is None else network
        self._one_pass_at_a_time = any(site.rows is None for site in program.graph.sites)
        self.tuning = tuning or Tuning()
        self._groups = NoiseCache(self.tuning)
        self._plans: dict[tuple[int, ...], ExecutionPlan] = {}
        self._lock = threading.Lock()

    def tuned(self, tuning: Tuning) -> "Engine":
        """Return an engine of the same network with other choices.

        Args:
            tuning: The choices.

        Returns:
            The engine.
        """
        return Engine(Program(self._graph, {}), tuning, self.network)

    @property
    def looped(self) -> str:
        """The reason why passes run one by one, or an empty string if they are batched."""
        return "noise on weights takes one draw for each pass" if self._one_pass_at_a_time else ""

    def run(
        self,
        weights: Mapping[str, Tensor],
        inputs: Tensor | NamedTensors,
        options: PassOptions,
        wanted: RowsNeeded | None = None,
        places: Tensor | None = None,
    ) -> Iterator[Chunk]:
        """Yield the outputs of all passes over all rows, in chunks: rows in order, then passes.

        Args:
            weights: The weights of the graph, by name.
            inputs: Tensors [B, *F] by input name; a tensor stands for the only input.
            options: Which passes to run; their tolerance is not applied here.
            wanted: Called before each group of passes with a chunk index. Returns a bool [b] that selects the rows of
                the last chunk that need more passes, or None for all.
            places: int64 [B], the position of each row in its request, by which independent masks are drawn. By
                default the order of the rows.

        Yields:
            Chunks of outputs [t, b, *out].

        Raises:
            InvalidInput: The inputs do not fit the network, or its passes cannot branch.
        """
        inputs = inputs_by_name(self._graph, inputs)
        sizes = sizes_of(self._graph, inputs)
        plan = self._plan(weights, inputs, sizes)
        if sizes[ROWS] == 0:
            yield Chunk(
                0, torch.zeros((options.passes, 0, *plan.out_shape), dtype=plan.out_dtype, device=_device(inputs))
            )
            return
        chunks = plan.chunks
        run = _Run(weights, plan, self.allowed(options), _device(inputs), chunks.prefix_rows, chunks.suffix_rows)
        index = 0
        for boundaries in self._boundaries(run, inputs, sizes, places):
            for group in chunks.groups(run.options, in_blocks=wanted is not None):
                most = max(boundary.num_rows for boundary in boundaries)
                if not most:
                    break
                noise = self._noise(run, group, most)
                for offset in range(len(boundaries)):
                    keep = None if wanted is None else wanted(index + offset)
                    if keep is not None:
                        boundaries[offset] = boundaries[offset].rows(keep)
                    for outputs in self._passes(run, boundaries[offset], noise):
                        yield Chunk(index + offset, outputs, run.prefix_s)
            index += len(boundaries)

    def chunk_rows(self, weights: Mapping[str, Tensor], inputs: Tensor | NamedTensors) -> int:
        """Return how many rows times passes of these inputs run at once.

        Args:
            weights: Weights by name.
            inputs: Tensors by name, or the only input.

        Returns:
            The number.
        """
        return self._planned(weights, inputs).chunks.suffix_rows

    def thins(self, weights: Mapping[str, Tensor], inputs: Tensor | NamedTensors) -> bool:
        """Return whether passes over these inputs can be thinned.

        Args:
            weights: Weights by name.
            inputs: Tensors by name, or the only input.

        Returns:
            Whether they can.
        """
        return bool(self._planned(weights, inputs).suffix.chains)

    def _planned(self, weights: Mapping[str, Tensor], inputs: Tensor | NamedTensors) -> ExecutionPlan:
        inputs = inputs_by_name(self._graph, inputs)
        return self._plan(weights, inputs, sizes_of(self._graph, inputs))

    def allowed(self, options: PassOptions) -> PassOptions:
        """Return the options as this network runs them: without branches if every site is a last one.

        Args:
            options: The requested options.

        Returns:
            The options to run.

        Raises:
            InvalidInput: The passes of this network cannot branch.
        """
        if options.branches == 1 or not self.network.has_trunk:
            return replace(options, branches=1)
        if self._one_pass_at_a_time:
            raise InvalidInput(f"these passes cannot branch: {self.looped}. Leave branches at 1.")
        if self.network.no_branches:
            raise InvalidInput(self.network.no_branches)
        return options

    def _passes(self, run: _Run, boundary: Boundary, noise: PassNoise) -> Iterator[Tensor]:
        start, count = 0, len(noise.passes)
        while boundary.num_rows and start < count:
            attempt = partial(self._outputs, run, boundary, noise, start)
            outputs, run.suffix_rows = run_with_fewer_rows(run.suffix_rows, attempt)
            yield outputs
            start += len(outputs)

    def _boundaries(
        self, run: _Run, inputs: NamedTensors, sizes: Mapping[str, int], places: Tensor | None
    ) -> Iterator[list[Boundary]]:
        """Yield the boundaries of the rows, as many at a time as are held."""
        places = torch.arange(sizes[ROWS], device=run.device) if places is None else places
        held, at_once = run.plan.chunks.block_rows, run.plan.chunks.suffix_rows
        for block, where in zip(split_rows(inputs, held), places.split(held), strict=True):
            began = time.perf_counter()
            parts = zip(split_rows(block, at_once), where.split(at_once), strict=True)
            boundaries = [self._cross(run, rows, sizes, at) for rows, at in parts]
            run.prefix_s += time.perf_counter() - began
            yield boundaries

    @torch.inference_mode()
    def _cross(self, run: _Run, rows: NamedTensors, sizes: Mapping[str, int], places: Tensor) -> Boundary:
        """Run the prefix for some rows, and return what the suffix needs of it."""

        def attempt(at_once: int) -> list[dict[str, Tensor]]:
            parts = split_rows(rows, at_once)
            return [self.network.prefix(run.weights, part, sizes) for part in parts]

        parts, run.prefix_rows = run_with_fewer_rows(run.prefix_rows, attempt)
        values = {name: join([part[name] for part in parts], self._graph.boundary[name]) for name in parts[0]}
        return Boundary(places, values, self._graph.boundary, sizes)

    @torch.inference_mode()
    def _outputs(self, run: _Run, boundary: Boundary, noise: PassNoise, start: int, suffix_rows: int) -> Tensor:
        """Return the outputs [t, b, *out] of the passes that run at once, from the group's pass `start` on."""
        chunks = run.plan.chunks
        room = suffix_rows
        if noise.suffix.thinned and suffix_rows == chunks.suffix_rows:
            room = chunks.thinned_rows
        passes = 1 if self._one_pass_at_a_time else chunks.passes(boundary.num_rows, room)
        passes = min(max(passes, run.options.branches), len(noise.passes) - start)
        at_once = boundary.num_rows
        if suffix_rows < chunks.suffix_rows:  # memory ran out before
            at_once = max(1, suffix_rows // passes)
        parts = [boundary] if at_once >= boundary.num_rows else boundary.split(at_once)
        outputs = [self._suffix(run, part, noise, start, start + passes) for part in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    @staticmethod
    def _suffix(run: _Run, boundary: Boundary, noise: PassNoise, start: int, stop: int) -> Tensor:
        outputs = run.plan.run(run.weights, boundary, noise, run.options.branches, start, stop)
        return outputs.reshape(stop - start, boundary.num_rows, *outputs.shape[1:])

    def _noise(self, run: _Run, passes: range, num_rows: int) -> PassNoise:
        branches, plan = run.options.branches, run.plan
        if branches == 1:
            suffix = self._group(run, plan.suffix, passes, num_rows)
            return PassNoise(passes, suffix, suffix)
        trunk = range(passes.start // branches, -(-passes.stop // branches))
        head = range(trunk.start * branches, trunk.stop * branches)
        return PassNoise(
            passes, self._group(run, plan.trunk, trunk, num_rows), self._group(run, plan.head, head, num_rows)
        )

    def _group(self, run: _Run, part: Section, passes: range, num_rows: int) -> PassGroup:
        keep = run.options.passes <= _MOST_KEPT_PASSES
        # On a device the question which gates are shut would wait for it.
        alone = run.plan.chunks.passes(num_rows, run.suffix_rows) == 1 and run.device.type == "cpu"
        return self._groups.make(run.weights, part, run.options, passes, num_rows, keep=keep, alone=alone)

    def _plan(self, weights: Mapping[str, Tensor], inputs: NamedTensors, sizes: Mapping[str, int]) -> ExecutionPlan:
        """Return the plan for inputs of these sizes, which is measured on one row the first time."""
        key = tuple(sizes[free.name] for free in self._graph.free)
        with self._lock:
            plan = self._plans.get(key)
        if plan is None:
            plan = self._measure(weights, inputs, sizes)
            with self._lock:
                while len(self._plans) >= _MAX_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = plan
        return plan

    def _measure(self, weights: Mapping[str, Tensor], inputs: NamedTensors, sizes: Mapping[str, int]) -> ExecutionPlan:
        """Measure a plan on the first row, or on a row of zeros if there is none."""
        row = select_rows(inputs, slice(1))
        if not num_rows(row):
            row = {name: value.new_zeros((1, *value.shape[1:])) for name, value in row.items()}
        return self.network.plan(weights, row, sizes, self.tuning.chunk_bytes)


def _device(inputs: NamedTensors) -> torch.device:
    return next(iter(inputs.values())).device
