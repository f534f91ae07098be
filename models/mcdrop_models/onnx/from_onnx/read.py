"""An ONNX model of any origin as a network to be sampled: its sites found, its noise made an input, in two halves."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from onnx import ValueInfoProto, helper
from torch import Tensor

from dropout_core.capture.probe import NUM_ROWS, probe_rows
from dropout_core.engine.masks import Masks
from dropout_core.engine.options import PassOptions
from dropout_core.errors import CaptureError, CoupledRows, InvalidInput, NotTheModel
from dropout_core.graph.inputs import NamedTensors, inputs_by_name
from dropout_core.graph.program import ROWS, FreeDimension, Graph, Input, RowAxis, Site
from dropout_core.graph.sizes import Size
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.from_onnx.prepare import prepared
from mcdrop_models.onnx.from_onnx.rows import Layout, Quiet, laid_out, ran
from mcdrop_models.onnx.from_onnx.sites import source_of
from mcdrop_models.onnx.from_onnx.split import KINDS, halves, parted
from mcdrop_models.onnx.graph.checks import check, parsed
from mcdrop_models.onnx.graph.halves import MASKS, OUTPUT, PASSES, Halves, noise_name
from mcdrop_models.onnx.graph.source import Source
from mcdrop_models.onnx.runtime.options import Runtime
from mcdrop_models.onnx.runtime.session import Session

TOLERANCE = 1e-5
_SEED = 20
_MADE_ROWS = 32
_MADE_ELEMENTS = 2**28
_OURS = (ROWS, PASSES, MASKS)
_KINDS = {int(number): kind for kind, number in KINDS.items()}


@dataclass(frozen=True)
class Imported:
    """graph: inputs, sites, and the layout of what crosses. halves: what computes it. example: some rows of inputs."""

    graph: Graph
    halves: Halves
    example: dict[str, Tensor]


def imported(
    content: bytes, example: Tensor | tuple[Tensor, ...] | NamedTensors | None = None, result: str | None = None
) -> Imported:
    """The network in the bytes of an ONNX model, with its dropout on.

    example: some rows, as a tensor, a tuple in order, or by name; it may be left out where all sizes but the rows are
    fixed. result: the value that is the network's output, [B, *P, C]; it may be left out where there is one output.

    Raises InvalidBundle for what is no ONNX model within the limits, InvalidInput for an example or a result that does
    not fit, NoSite, UnknownRandomness, CoupledRows or CaptureError for a graph that cannot be sampled, and NotTheModel
    where the halves do not compute what the model does.
    """
    source = source_of(prepared(parsed(content), result))
    inputs = tuple(_inputs(source.inputs))
    source = replace(source, inputs=tuple(map(_declared, inputs)))
    free = tuple(FreeDimension(name, 1) for name in sorted({name for spec in inputs for name in _names(spec)}))
    graph = Graph(inputs, (), source.sites, OUTPUT, free=free)
    rows = _example(graph, example)
    probe = probe_rows(rows)
    parts = parted(source, free=bool(free))
    watched = {*parts.crossing, *parts.shaped, *(site.input.name for site in source.sites), OUTPUT}
    layout = laid_out(source, inputs, sorted(watched), probe)
    nodes = tuple(replace(node, rows=layout.rows(node.input.name)) if isinstance(node, Site) else node
                  for node in source.nodes)  # fmt: skip
    found = replace(source, nodes=nodes)
    parts = parted(found, free=bool(free))
    boundary = {name: layout.rows(name) for name in parts.crossing}
    sites = tuple(node for node in parts.suffix if isinstance(node, Site))
    graph = replace(graph, nodes=sites, boundary=boundary, positions=_positions(layout, free))
    network = Imported(graph, halves(found, parts, layout), rows)
    for half in (network.halves.prefix, network.halves.suffix):
        if half is not None:
            check(half)
    _verify(network, found, probe)
    return network


def _inputs(values: Sequence[ValueInfoProto]) -> Iterator[Input]:
    """The inputs as a graph says them. Raises InvalidBundle for one without rows of any number, first."""
    rows = {value.type.tensor_type.shape.dim[0].dim_param for value in values if value.type.tensor_type.shape.dim}
    for value in values:
        kind, dims = value.type.tensor_type.elem_type, list(value.type.tensor_type.shape.dim)
        if kind not in _KINDS or not dims:
            raise InvalidBundle(
                f"the input {value.name!r} is no tensor of rows and of a known type; "
                f"{', '.join(str(kind) for kind in _KINDS.values())} are."
            )
        if dims[0].HasField("dim_value"):
            raise InvalidBundle(
                f"the first axis of the input {value.name!r} has the fixed size {dims[0].dim_value}; it holds the "
                "rows, of any number: export the model with a dynamic batch axis."
            )
        shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}"
                 for axis, dim in enumerate(dims)][1:]  # fmt: skip
        if rows.intersection(shape):
            raise CoupledRows(
                f"the input {value.name!r} has the shape {shape} for a row, and the number of rows is in it; the "
                "answer for a row must not depend on how many there are."
            )
        if any(isinstance(size, int) and size < 1 for size in shape):
            raise InvalidBundle(f"the input {value.name!r} has the shape {shape} for a row; sizes are 1 and more.")
        yield Input(value.name, tuple(f"{size}_" if size in _OURS else size for size in shape), _KINDS[kind])


def _declared(spec: Input) -> ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, KINDS[spec.dtype], [ROWS, *spec.shape])


def _names(spec: Input) -> Iterator[str]:
    return (size for size in spec.shape if isinstance(size, str))


def _example(graph: Graph, example: Tensor | tuple[Tensor, ...] | NamedTensors | None) -> dict[str, Tensor]:
    """The caller's rows, or made ones. Raises InvalidInput for rows that do not fit, or where sizes are open."""
    if example is not None:
        rows = inputs_by_name(graph, example)
        for spec in graph.inputs:
            if rows[spec.name].dtype != spec.dtype or rows[spec.name].dim() != 1 + len(spec.shape):
                raise InvalidInput(
                    f"the example's {spec.name} is {rows[spec.name].dtype} of {rows[spec.name].dim()} axes; "
                    f"{spec.dtype} of {1 + len(spec.shape)} is wanted, rows first."
                )
        return rows
    generator = torch.Generator().manual_seed(_SEED)
    rows = {}
    for spec in graph.inputs:
        if any(_names(spec)):
            raise InvalidInput(
                f"the input {spec.name!r} leaves {', '.join(_names(spec))} open; give an example with rows of a size "
                "that the network is used with."
            )
        shape = [_MADE_ROWS, *(size for size in spec.shape if isinstance(size, int))]
        if math.prod(shape) > _MADE_ELEMENTS:
            raise InvalidInput(f"a row of the input {spec.name!r} has the shape {shape[1:]}; give an example of it.")
        floating = spec.dtype.is_floating_point
        rows[spec.name] = (
            torch.randn(shape, generator=generator).to(spec.dtype) if floating else torch.zeros(shape, dtype=spec.dtype)
        )
    return rows


def _positions(layout: Layout, free: Sequence[FreeDimension]) -> tuple[int | Size, ...]:
    """The sizes between an output's rows and its classes. Raises CaptureError or CoupledRows for one that has none."""
    shape, names = layout.shapes[OUTPUT], {one.name for one in free}
    if layout.rows(OUTPUT) != RowAxis(0) or len(shape) < 2:
        raise CoupledRows(
            f"the output has shape [{', '.join(map(str, shape))}]; one row for each input row is wanted, rows first, "
            "then its classes or targets."
        )
    if not layout.kinds[OUTPUT].is_floating_point:
        raise CaptureError(f"the output is {layout.kinds[OUTPUT]}; name a result of floats, such as probabilities.")
    if any(isinstance(size, Size) and not size.names <= names for size in shape[1:]):
        raise CaptureError("an axis of the output has a size that is no multiple of an input's; leave it fixed.")
    if isinstance(shape[-1], Size):
        raise CaptureError(f"the output has {shape[-1]} classes or targets; their number must be fixed.")
    return shape[1:-1]


def _verify(network: Imported, source: Source, probe: NamedTensors) -> None:
    """Raise NotTheModel unless the halves are the model with its noise off, and two passes at once are two in turn."""
    prefix, suffix = network.halves.prefix, network.halves.suffix
    values = dict(probe)
    if prefix is not None:
        values |= ran(Session(prefix.SerializeToString(), Runtime(), "the prefix").run, probe)
    session = Session(suffix.SerializeToString(), Runtime(), "the suffix")
    sites = network.graph.sites
    watch = Quiet(source, [OUTPUT, *(site.input.name for site in sites)], steps=True)
    inputs = ran(watch.run, probe)
    off = {noise_name(site): _off(site, inputs[site.input.name]) for site in sites}
    _compare(inputs[OUTPUT], ran(session.run, {**values, **off})[OUTPUT], "with its noise off")
    if any(site.rows is None for site in sites):
        return
    masks = Masks(PassOptions(2, _SEED, "iid", "independent"), range(2))
    places = torch.arange(NUM_ROWS)

    def passes(start: int, stop: int) -> Tensor:
        drawn = {noise_name(site): masks.draws(site, inputs[site.input.name], start, stop, places) for site in sites}
        return ran(session.run, {**values, **drawn})[OUTPUT]

    _compare(torch.cat([passes(0, 1), passes(1, 2)]), passes(0, 2), "in two passes at once")


def _off(site: Site, value: Tensor) -> Tensor:
    """The draws of one pass that are no noise; the middle one of those that are compared with a probability."""
    masks = Masks(PassOptions(1, _SEED, "iid"), range(1))
    draws = masks.draws(site, value, 0, 1, torch.arange(NUM_ROWS))
    middle = {"dropout": 1.0, "bernoulli": 2**31, "uniform": 0.5, "normal": 0.0}[site.kind]
    return torch.full_like(draws, middle)


def _compare(wanted: Tensor, found: Tensor, when: str) -> None:
    scale = max(1.0, float(wanted.abs().nan_to_num(0, 0, 0).max()))
    if wanted.shape != found.shape or not torch.allclose(
        wanted.double(), found.double(), rtol=0, atol=TOLERANCE * scale, equal_nan=True
    ):
        raise NotTheModel(
            f"{when} the halves of the ONNX model answer {list(found.shape)} numbers that are not the model's "
            f"{list(wanted.shape)}; please report this model."
        )
