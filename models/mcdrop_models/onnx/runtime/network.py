"""A network that onnxruntime computes: two sessions, the second with its noise as inputs.

The noise is that of (seed, site, pass) that torch's engine draws, so the two agree to rounding. Everything else of a
run, chunks, stopping, measures, is the engine's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dropout_core.engine.boundary import Boundary
from dropout_core.engine.chunks import FootprintProbe
from dropout_core.engine.network import ExecutionPlan, Network, PassNoise, Section
from dropout_core.engine.torch_network import TorchNetwork
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import Graph, Program, Site
from mcdrop_models.bundle.manifest import PREFIX_FILE, SUFFIX_FILE
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.graph.checks import parsed
from mcdrop_models.onnx.graph.halves import OUTPUT, Halves, noise_name, size_name
from mcdrop_models.onnx.runtime.observe import Seeing
from mcdrop_models.onnx.runtime.options import Runtime
from mcdrop_models.onnx.runtime.session import Session

See = Callable[[Mapping[str, Tensor], NamedTensors, Mapping[str, int]], FootprintProbe]


@dataclass(frozen=True)
class Sessions:
    """The halves of a network in onnxruntime. prefix: None where nothing is computed before the first noise."""

    prefix: Session | None
    suffix: Session

    @property
    def nbytes(self) -> int:
        """The bytes of the models, which are weights for the most part."""
        return self.suffix.nbytes + (0 if self.prefix is None else self.prefix.nbytes)


@dataclass(frozen=True)
class OnnxPlan(ExecutionPlan):
    """How the sessions run on inputs of some sizes. likes: of the shapes of the sites' inputs, by site.

    late: the sites whose noise is their own where passes branch; the others share it.
    """

    session: Session
    sites: tuple[Site, ...]
    likes: Mapping[str, Tensor]
    late: frozenset[str]

    def run(
        self,
        weights: Mapping[str, Tensor],  # noqa: ARG002 - the session holds them
        boundary: Boundary,
        noise: PassNoise,
        branches: int,
        start: int,
        stop: int,
    ) -> Tensor:
        """The passes. Where they branch their noise does, and each is computed from the first site on."""
        feeds = dict(boundary.values)
        feeds |= {noise_name(site): self._draws(site, boundary, noise, branches, start, stop) for site in self.sites}
        feeds |= {size_name(name): torch.zeros(size, dtype=torch.uint8) for name, size in boundary.sizes.items()}
        return self.session.run(feeds)[OUTPUT].to(boundary.device)

    def _draws(self, site: Site, boundary: Boundary, noise: PassNoise, branches: int, start: int, stop: int) -> Tensor:
        like, places = self.likes[site.name], boundary.places.cpu()
        if branches == 1 or site.name in self.late:
            return noise.suffix.masks.draws(site, like, start, stop, places)
        first, last = start // branches, -(-stop // branches)
        draws = noise.trunk.masks.draws(site, like, first, last, places)
        if site.rows is None:
            return draws
        axis = site.rows.axis + 1
        return draws.repeat_interleave(branches, axis).narrow(axis, start - first * branches, stop - start)


class OnnxNetwork(Network):
    """The sessions of a graph. see: what a row does to its values, measured elsewhere.

    late: the sites that reach no other one; None where nobody knows them, and passes do not branch.
    """

    computer = "onnx"

    def __init__(self, graph: Graph, sessions: Sessions, see: See, late: frozenset[str] | None) -> None:
        self.graph = graph
        self.nbytes = sessions.nbytes
        self._sessions, self._see = sessions, see
        self._late = frozenset[str]() if late is None else late
        given = {spec.name for spec in graph.inputs}
        self._passed_on = [name for name in sessions.suffix.inputs if name in given]
        if late is None:
            self.no_branches = "the passes of a network that came as an ONNX file do not branch; leave branches at 1."

    @property
    def has_trunk(self) -> bool:
        """Whether some site comes before another."""
        return len(self.graph.sites) > max(1, len(self._late))

    def prefix(
        self,
        weights: Mapping[str, Tensor],  # noqa: ARG002 - the session holds them
        rows: NamedTensors,
        sizes: Mapping[str, int],
    ) -> dict[str, Tensor]:
        """What crosses to the suffix: values of the first session, and inputs that are noisy at once."""
        found = {name: rows[name] for name in self._passed_on}
        if self._sessions.prefix is None:
            return found
        feeds = {**rows, **{size_name(name): torch.zeros(size, dtype=torch.uint8) for name, size in sizes.items()}}
        device = next(iter(rows.values())).device
        return found | {name: value.to(device) for name, value in self._sessions.prefix.run(feeds).items()}

    def plan(
        self, weights: Mapping[str, Tensor], row: NamedTensors, sizes: Mapping[str, int], chunk_bytes: int | None
    ) -> OnnxPlan:
        """From what a row does to the values of the network."""
        seen = self._see(weights, row, sizes)
        return OnnxPlan(
            chunks=seen.chunks(chunk_bytes),
            out_shape=tuple(seen.output.shape[1:]),
            out_dtype=seen.output.dtype,
            suffix=Section(),
            trunk=Section(),
            head=Section(),
            session=self._sessions.suffix,
            sites=self.graph.sites,
            likes=seen.suffix.likes,
            late=self._late,
        )


def onnx_network(prefix: bytes | None, suffix: bytes, program: Program, runtime: Runtime) -> OnnxNetwork:
    """The network of two halves, as files. Raises InvalidBundle where they are not those of the program."""
    graph, halves = program.graph, halves_in(prefix, suffix)
    _refuse_misfit(halves, program)
    before = None if prefix is None else Session(prefix, runtime, PREFIX_FILE)
    sessions = Sessions(before, Session(suffix, runtime, SUFFIX_FILE))
    if graph.is_outline:
        return OnnxNetwork(graph, sessions, Seeing(graph, halves, runtime), None)
    staged = TorchNetwork(program)
    return OnnxNetwork(graph, sessions, staged.see, staged.late)


def halves_in(prefix: bytes | None, suffix: bytes) -> Halves:
    """The halves that files hold. Raises InvalidBundle for what is no ONNX model within bounds."""
    return Halves(None if prefix is None else parsed(prefix), parsed(suffix))


def _refuse_misfit(halves: Halves, program: Program) -> None:
    graph = program.graph
    inputs, free = {spec.name for spec in graph.inputs}, {size_name(free.name) for free in graph.free}
    noises = {noise_name(site) for site in graph.sites}
    made = set() if halves.prefix is None else {one.name for one in halves.prefix.graph.output}
    taken = {one.name for one in halves.suffix.graph.input}
    crossing = taken - noises - free
    fits = noises <= taken and crossing <= inputs | made and crossing <= set(graph.boundary)
    if halves.prefix is not None:
        fits = fits and {one.name for one in halves.prefix.graph.input} <= inputs | free
    if not fits or [one.name for one in halves.suffix.graph.output] != [OUTPUT]:
        raise InvalidBundle(f"{PREFIX_FILE} and {SUFFIX_FILE} are not the halves of the network of program.json.")
