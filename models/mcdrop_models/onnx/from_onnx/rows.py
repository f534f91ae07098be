"""The shapes of an ONNX graph's values, and which element of them belongs to which row.

As for a captured network (dropout_core.capture.rows): it is run with its noise off, on rows of which one is changed
at a
time. A shape is what it is for 2 and 3 rows, and for free dimensions a little longer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import NodeProto, TensorProto, ValueInfoProto, helper
from onnx.shape_inference import infer_shapes
from torch import Tensor

from dropout_core.capture.probe import NUM_ROWS, perturbed
from dropout_core.capture.rows import differs, rows_from
from dropout_core.capture.translate import Shape
from dropout_core.errors import CaptureError, InvalidInput
from dropout_core.graph.inputs import NamedTensors, select_rows
from dropout_core.graph.program import ROWS, Input, RowAxis, Site
from dropout_core.graph.sizes import Size
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.onnx.graph.builder import Nodes
from mcdrop_models.onnx.graph.source import Source, label
from mcdrop_models.onnx.runtime.options import Runtime
from mcdrop_models.onnx.runtime.session import Session


@dataclass(frozen=True)
class Layout:
    """shapes, kinds: of the watched values; a kind is a torch type. rows: where they lie; None: the same for all."""

    shapes: Mapping[str, Shape]
    kinds: Mapping[str, torch.dtype]
    changes: Mapping[str, Sequence[Tensor]]
    lines: Mapping[str, str]

    def rows(self, name: str) -> RowAxis | None:
        """Where a value's rows lie. Raises CoupledRows."""
        return rows_from(self.shapes[name], list(self.changes[name]), self.lines.get(name, ""))


class Quiet:
    """A network with its noise off, watched.

    steps: whether a Bernoulli value is 0 or 1, as it is at the middle draw, and not its probability.
    """

    def __init__(self, source: Source, watched: Iterable[str], *, steps: bool = False) -> None:
        nodes = Nodes("mcdrop.quiet")
        for node in source.nodes:
            nodes.nodes += [node] if isinstance(node, NodeProto) else []
            if isinstance(node, Site):
                _quiet(nodes, node, steps=steps)
        given = [value.name for value in source.inputs]
        self._watched = [name for name in dict.fromkeys(watched) if name not in given]
        outputs = [ValueInfoProto(name=name) for name in self._watched]
        model = source.model(nodes.nodes, source.inputs, outputs, nodes.initializers)
        _refuse_sequences(infer_shapes(model).graph.value_info, self._watched)
        self._session = Session(model.SerializeToString(), Runtime(), "the model", observing=True)

    def run(self, inputs: NamedTensors) -> dict[str, Tensor]:
        """The watched values, and the inputs themselves."""
        return {**inputs, **self._session.run(inputs, self._watched)}


def laid_out(source: Source, inputs: Sequence[Input], watched: Iterable[str], probe: NamedTensors) -> Layout:
    """What there is to know of some values. Raises CaptureError for one whose shape follows no rule.

    probe: NUM_ROWS rows.
    """
    quiet = Quiet(source, watched)
    base = ran(quiet.run, probe)
    points = [({ROWS: 2}, select_rows(probe, slice(2)))]
    for free in sorted({size for spec in inputs for size in spec.shape if isinstance(size, str)}):
        points += [({free: more}, _longer(probe, inputs, free, more)) for more in (1, 2)]
    found = [(sizes, ran(quiet.run, given)) for sizes, given in points]
    sizes = _sizes(inputs, probe)
    shapes = {name: _shape(name, value, [(at, values[name]) for at, values in found], sizes)
              for name, value in base.items()}  # fmt: skip
    changes: dict[str, list[Tensor]] = {name: [] for name in base}
    for row in range(NUM_ROWS):
        for name, value in ran(quiet.run, perturbed(probe, row)).items():
            changes[name].append(differs(base[name], value))
    lines = {name: label(node) for node in source.nodes if isinstance(node, NodeProto) for name in node.output}
    return Layout(shapes, {name: value.dtype for name, value in base.items()}, changes, lines)


def _quiet(nodes: Nodes, site: Site, *, steps: bool) -> None:
    given = site.input.name
    if site.kind == "dropout" or (site.kind == "bernoulli" and not steps):
        last = ("Identity", [given])
    elif site.kind == "bernoulli":
        half = nodes("CastLike", nodes.constant(np.array(0.5, np.float32)), given)
        last = ("CastLike", [nodes("GreaterOrEqual", given, half), given])
    else:
        mean = helper.make_tensor("", TensorProto.FLOAT, [1], [0.5 if site.kind == "uniform" else 0.0])
        last = ("CastLike", [nodes("ConstantOfShape", nodes("Shape", given), value=mean), given])
    nodes.nodes.append(helper.make_node(last[0], last[1], [site.name]))


def _refuse_sequences(values: Iterable[ValueInfoProto], watched: Iterable[str]) -> None:
    kinds = {value.name: value.type.WhichOneof("value") for value in values}
    for name in watched:
        if kinds.get(name, "tensor_type") != "tensor_type":
            raise CaptureError(
                f"the value {name!r} is a {kinds[name]}, and noise meets it; only tensors may be. Export the network "
                "so that its parts are joined before its dropout."
            )


def ran(run: Callable[[NamedTensors], dict[str, Tensor]], inputs: NamedTensors) -> dict[str, Tensor]:
    """What a run of a model answers. Raises InvalidBundle where it fails."""
    try:
        return run(inputs)
    except (InvalidInput, IndexError, torch.OutOfMemoryError) as error:
        came = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
        raise InvalidBundle(
            f"the ONNX model does not run for {came}: {error} It must run for any number of rows, and for any size of "
            "a dimension that it leaves open: export it with a dynamic batch axis, or give an example."
        ) from error


def _sizes(inputs: Sequence[Input], probe: NamedTensors) -> dict[str, int]:
    sizes = {size: probe[spec.name].shape[axis] for spec in inputs for axis, size in enumerate(spec.shape, 1)
             if isinstance(size, str)}  # fmt: skip
    return {ROWS: NUM_ROWS, **sizes}


def _longer(probe: NamedTensors, inputs: Sequence[Input], free: str, more: int) -> dict[str, Tensor]:
    """The probe with its last entries along a free dimension repeated."""
    longer = dict(probe)
    for spec in inputs:
        for axis, size in enumerate(spec.shape, 1):
            if size == free:
                value = longer[spec.name]
                last = value.narrow(axis, value.shape[axis] - 1, 1)
                longer[spec.name] = torch.cat([value, *[last] * more], dim=axis)
    return longer


def _shape(
    name: str, base: Tensor, points: Sequence[tuple[Mapping[str, int], Tensor]], sizes: Mapping[str, int]
) -> Shape:
    if any(value.dim() != base.dim() for _, value in points):
        raise CaptureError(f"the value {name!r} has another number of axes for another number of rows.")
    return tuple(
        _size(f"{name}:{axis}", base.shape[axis], [(at, value.shape[axis]) for at, value in points], sizes)
        for axis in range(base.dim())
    )


def _size(
    name: str, base: int, points: Sequence[tuple[Mapping[str, int], int]], sizes: Mapping[str, int]
) -> int | Size:
    """A size as slope · dimension + offset. One that follows another rule has a name of its own."""
    moving = {dimension for at, size in points for dimension in at if size != base}
    if not moving:
        return base
    if len(moving) > 1:
        product: Size = Size(("mul", ROWS, next(iter(moving - {ROWS})))) if ROWS in moving else Size(name)
        return product
    dimension = moving.pop()
    by_step = {at[dimension]: size for at, size in points if dimension in at}
    if dimension == ROWS:
        slope = base - by_step[2]
    else:
        slope = by_step[1] - base
        if by_step[2] - base != 2 * slope:
            return Size(name)
    offset = base - slope * sizes[dimension]
    scaled = Size(dimension) if slope == 1 else Size(("mul", slope, dimension))
    return Size(("add", scaled.expression, offset)) if offset else scaled
