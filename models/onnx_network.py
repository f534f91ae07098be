"""Halves, as files or of a Program, as a network that an engine runs."""

from dropout_core.mc.program import Program
from dropout_core.mc.staged import StagedNetwork
from models.errors import InvalidBundle
from models.manifest import PREFIX, SUFFIX
from models.onnx.checks import parsed
from models.onnx.format import OUTPUT, Halves, noise_name, size_name
from models.onnx.seen import Seeing
from models.onnx.sessions import Session
from models.onnx_backend import OnnxNetwork, Sessions
from models.runtime import Runtime


def onnx_network(prefix: bytes | None, suffix: bytes, program: Program, runtime: Runtime) -> OnnxNetwork:
    """The network of two halves, as files. Raises InvalidBundle where they are not those of the program."""
    graph, halves = program.graph, halves_in(prefix, suffix)
    _refuse_misfit(halves, program)
    before = None if prefix is None else Session(prefix, runtime, PREFIX)
    sessions = Sessions(before, Session(suffix, runtime, SUFFIX))
    if graph.is_outline:
        return OnnxNetwork(graph, sessions, Seeing(graph, halves, runtime), None)
    staged = StagedNetwork(program)
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
        raise InvalidBundle(f"{PREFIX} and {SUFFIX} are not the halves of the network of program.json.")
