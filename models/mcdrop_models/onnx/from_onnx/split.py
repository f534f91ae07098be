"""An ONNX graph with sites as two models: what no noise reaches, and the rest on t passes of b rows.

What the second half takes of the first has b rows, and its own values t·b. A site broadcasts its draws over the rows;
anything else that reads a value of the first half reads it once for each pass. Shapes of such values say b where t·b is
right, so that the arithmetic of shapes is done anew in the second half.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from dropout_core.capture.translate import Shape
from dropout_core.errors import CaptureError, CoupledRows
from dropout_core.graph.program import ROWS, RowAxis, Site
from dropout_core.graph.sizes import Size
from mcdrop_models.onnx.from_onnx.rows import Layout
from mcdrop_models.onnx.graph.builder import Nodes
from mcdrop_models.onnx.graph.checks import STANDARD
from mcdrop_models.onnx.graph.halves import MASKS, OUTPUT, PASSES, Halves, noise_name
from mcdrop_models.onnx.graph.source import Node, Source, graphs_in, label, needed, reads, writes

DATA, NOISE, SIZES, NOISY_SIZES = "data", "noise", "sizes", "noisy sizes"
_SHAPES = ("Shape", "Size")
KINDS = {
    torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE, torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64, torch.int32: TensorProto.INT32, torch.bool: TensorProto.BOOL,
    torch.int16: TensorProto.INT16, torch.int8: TensorProto.INT8, torch.uint8: TensorProto.UINT8,
}  # fmt: skip
_FLOATS = (torch.float32, torch.float64, torch.float16)


@dataclass(frozen=True)
class Parts:
    """prefix, suffix: nodes, in order. crossing: what the suffix reads of the prefix or of the inputs.

    shaped: values not of the suffix whose shape it reads; where no dimension is free that is known but for the rows.
    """

    prefix: tuple[NodeProto, ...]
    suffix: tuple[Node, ...]
    crossing: tuple[str, ...]
    shaped: tuple[str, ...]


def parted(source: Source, *, free: bool) -> Parts:
    """The two parts by taint. free: whether sizes other than the rows are open, so that shapes are read where used.

    What reads only shapes, and constants, is computed in both parts. Raises CaptureError where noise reaches control
    flow, or where the output does not depend on the inputs.
    """
    reached = _reached(source)
    clean = {*source.weights, *(value.name for value in source.inputs)}

    def noisy(node: Node) -> bool:
        return bool(reached[writes(node)[0]] & {NOISE, NOISY_SIZES})

    recomputed = [node for node in source.nodes if noisy(node) or DATA not in reached[writes(node)[0]]]
    wanted = {OUTPUT}
    kept: list[Node] = []
    shaped: set[str] = set()
    for node in reversed(recomputed):
        if wanted.isdisjoint(writes(node)):
            continue
        kept.append(node)
        _refuse(node)
        if not free and _reads_shape(node) and _clean_data(reached, reads(node)[0]):
            shaped.add(reads(node)[0])
        else:
            wanted.update(reads(node))
    suffix = tuple(reversed(kept))
    inside = {name for node in suffix for name in writes(node)} | set(source.weights)
    crossing = sorted(wanted - inside - {OUTPUT})
    if not crossing:
        raise CaptureError("the output of the ONNX model does not depend on its inputs after the first noise.")
    before = [node for node in source.nodes if isinstance(node, NodeProto) and not noisy(node)]
    prefix = needed(before, set(crossing) - clean)
    return Parts(prefix, suffix, tuple(crossing), tuple(sorted(shaped)))


def halves(source: Source, parts: Parts, layout: Layout) -> Halves:
    """The two models. Raises CoupledRows, or CaptureError for noise on what is no float."""
    given = {value.name for value in source.inputs}
    outputs = [name for name in parts.crossing if name not in given]
    prefix = None
    if outputs:
        prefix = source.model(parts.prefix, source.inputs, [_value(name, layout) for name in outputs])
    return Halves(prefix, _Suffix(source, parts, layout).model())


def _reached(source: Source) -> dict[str, frozenset[str]]:
    """What every value depends on. Data that meets the shape of noise is computed where the noise is."""
    reached = {value.name: frozenset({DATA}) for value in source.inputs}
    for node in source.nodes:
        tags: frozenset[str] = frozenset().union(*(reached.get(name, frozenset()) for name in reads(node)))
        if isinstance(node, Site):
            tags |= {NOISE}
        elif _reads_shape(node) and tags:
            tags = frozenset({SIZES, NOISY_SIZES} if tags & {NOISE, NOISY_SIZES} else {SIZES})
        reached.update(dict.fromkeys(writes(node), tags))
    return reached


def _clean_data(reached: Mapping[str, frozenset[str]], name: str) -> bool:
    tags = reached.get(name, frozenset())
    return DATA in tags and not tags & {NOISE, NOISY_SIZES}


def _reads_shape(node: Node) -> bool:
    return isinstance(node, NodeProto) and node.op_type in _SHAPES and not node.domain


def _refuse(node: Node) -> None:
    """What cannot stand after the first noise."""
    if isinstance(node, Site):
        return
    if node.domain != STANDARD:
        raise CaptureError(f"noise reaches {label(node)} of {node.domain}; only standard operators may follow noise.")
    if next(graphs_in(node), None) is not None:
        raise CaptureError(
            f"noise reaches {label(node)}, a branch or a loop; export the network without control flow after its "
            "first dropout."
        )


class _Suffix:
    """The second half, written node by node."""

    def __init__(self, source: Source, parts: Parts, layout: Layout) -> None:
        self._source, self._parts, self._layout = source, parts, layout
        self._nodes = Nodes("mcdrop.suffix")
        self._rows = {name: layout.rows(name) for name in parts.crossing}
        self._tiled: dict[str, str] = {}
        self._num_rows = self._count_rows()
        self._passes = self._count_passes()

    def model(self) -> ModelProto:
        """The half as a model."""
        for node in self._parts.suffix:
            if isinstance(node, Site):
                self._site(node)
            elif _reads_shape(node) and node.input[0] in {*self._parts.shaped, *self._rows}:
                self._shape_of(node)
            else:
                self._copy(node)
        sites = [node for node in self._parts.suffix if isinstance(node, Site)]
        inputs = [_value(name, self._layout) for name in self._parts.crossing]
        inputs += [self._noise(site) for site in sites]
        output = [_value(OUTPUT, self._layout, f"{PASSES}*{ROWS}")]
        return self._source.model(self._nodes.nodes, inputs, output, self._nodes.initializers)

    def _count_rows(self) -> str:
        """b, as a vector of one."""
        name, rows = next(((name, rows) for name, rows in self._rows.items() if rows is not None), ("", None))
        if rows is None:
            raise CoupledRows("no value that noise meets has rows; an answer must depend on its own row.")
        size = self._nodes("Shape", name, start=rows.axis, end=rows.axis + 1)
        return self._nodes("Div", size, self._nodes.integers(rows.before * rows.after))

    def _count_passes(self) -> str:
        """t, as a vector of one. Noise without rows comes one pass at a time."""
        for node in self._parts.suffix:
            if isinstance(node, Site) and node.rows is not None:
                axis = node.rows.axis + 1
                return self._nodes("Shape", noise_name(node), start=axis, end=axis + 1)
        return self._nodes.integers(1)

    def _copy(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._repeated(name) for name in node.input]
        self._nodes.nodes.append(copy)

    def _repeated(self, name: str) -> str:
        """A crossing value with its rows once for each pass, passes outermost."""
        rows = self._rows.get(name)
        if rows is None:
            return name
        if name not in self._tiled:
            ahead, behind = self._around(name, rows)
            split = [*ahead, rows.before, 1, -1, *behind]
            ones = [1] * (1 + len(self._layout.shapes[name]) - rows.axis - 1)
            apart = self._nodes("Reshape", name, self._vector(split))
            spread = self._nodes("Expand", apart, self._vector([self._passes, *ones]))
            self._tiled[name] = self._nodes("Reshape", spread, self._vector([*ahead, -1, *behind]))
        return self._tiled[name]

    def _site(self, site: Site) -> None:
        name, rows = site.input.name, site.rows
        if rows is None:
            result = self._applied(site, name)
            self._nodes.nodes.append(helper.make_node("Identity", [result], [site.name]))
            return
        ahead, behind = self._around(name, rows)
        apart = self._vector([*ahead, rows.before, -1, self._num_rows, rows.after, *behind])
        result = self._applied(site, self._nodes("Reshape", name, apart))
        joined = self._vector([*ahead, -1, *behind])
        self._nodes.nodes.append(helper.make_node("Reshape", [result, joined], [site.name]))

    def _applied(self, site: Site, value: str) -> str:
        """What a site makes of its draws, which broadcast with its input."""
        nodes, draws, kind = self._nodes, noise_name(site), self._layout.kinds[site.input.name]
        if kind not in _FLOATS:
            raise CaptureError(f"{site.where} draws on values of type {kind}; float16, float32 and float64 may.")
        if site.kind == "dropout":
            half = kind == torch.float16
            product = nodes("Mul", nodes("Cast", value, to=TensorProto.FLOAT) if half else value, draws)
            return nodes("Cast", product, to=TensorProto.FLOAT16) if half else product
        if site.kind == "bernoulli":
            fine = nodes("Cast", value, to=TensorProto.DOUBLE)
            missing = nodes("Sub", nodes.constant(np.array(1.0)), fine)
            least = nodes("Mul", missing, nodes.constant(np.array(2.0**32)))
            kept = nodes("GreaterOrEqual", nodes("Cast", draws, to=TensorProto.DOUBLE), least)
            return nodes("Cast", kept, to=KINDS[kind])
        return nodes("Expand", draws, nodes("Shape", value))

    def _shape_of(self, node: NodeProto) -> None:
        """Shape and Size of a value of b rows, as if it had t·b."""
        name = node.input[0]
        shape = self._layout.shapes[name]
        sizes = self._sizes(name, shape)
        if node.op_type == "Size":
            made = self._nodes("ReduceProd", self._vector(sizes), keepdims=0)
        else:
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            made = self._vector(sizes[bounds.get("start") : bounds.get("end")])
        self._nodes.nodes.append(helper.make_node("Identity", [made], [node.output[0]]))

    def _sizes(self, name: str, shape: Shape) -> list[int | str]:
        """The sizes of a value: numbers, and vectors of one."""
        sizes: list[int | str] = []
        for axis, size in enumerate(shape):
            if isinstance(size, int):
                sizes.append(size)
            elif ROWS in size.names:
                rows = self._nodes("Mul", self._passes, self._num_rows)
                sizes.append(self._nodes("Mul", rows, self._nodes.integers(_fold(name, size))))
            else:
                sizes.append(self._nodes("Shape", name, start=axis, end=axis + 1))
        return sizes

    def _around(self, name: str, rows: RowAxis) -> tuple[list[int | str], list[int | str]]:
        """The sizes before and after the axis of a value's rows."""
        shape = self._layout.shapes[name]
        sizes = [self._nodes("Shape", name, start=axis, end=axis + 1)
                 if isinstance(size, Size) and axis != rows.axis else size
                 for axis, size in enumerate(shape)]  # fmt: skip
        around = [size for size in sizes if not isinstance(size, Size)]
        return around[: rows.axis], around[rows.axis :]

    def _vector(self, sizes: Iterable[int | str]) -> str:
        sizes = list(sizes)
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) == len(sizes):
            return self._nodes.integers(*numbers)
        named = [self._nodes.integers(size) if isinstance(size, int) else size for size in sizes]
        return self._nodes("Concat", *named, axis=0) if len(named) > 1 else named[0]

    def _noise(self, site: Site) -> ValueInfoProto:
        """The input that takes a site's draws."""
        kind = self._layout.kinds[site.input.name]
        if site.kind == "bernoulli":
            kind = torch.int64
        elif site.kind == "dropout":
            kind = torch.promote_types(kind, torch.float32)
        dims = _dims(self._layout.shapes[site.input.name])
        if site.rows is not None:
            axis = site.rows.axis
            dims[axis : axis + 1] = [site.rows.before, PASSES, MASKS, site.rows.after]
        return helper.make_tensor_value_info(noise_name(site), KINDS[kind], dims)


def _fold(name: str, size: Size) -> int:
    fold = size({ROWS: 1}) if size.names == {ROWS} else 0
    if fold < 1 or size({ROWS: 2}) != 2 * fold:
        raise CoupledRows(f"the value {name!r} has a size of {size}; a multiple of the number of rows is allowed.")
    return fold


def _value(name: str, layout: Layout, rows: str = ROWS) -> ValueInfoProto:
    kind = layout.kinds[name]
    if kind not in KINDS:
        raise CaptureError(f"the value {name!r} has type {kind}, which cannot be handed from one half to the other.")
    return helper.make_tensor_value_info(name, KINDS[kind], _dims(layout.shapes[name], rows))


def _dims(shape: Shape, rows: str = ROWS) -> list[int | str]:
    return [size if isinstance(size, int) else rows if size == Size(ROWS) else str(size) for size in shape]
