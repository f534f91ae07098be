"""A captured network → two ONNX models, by torch's exporter: all but the noise, which their users bring."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor

from dropout_core.capture.probe import two_rows
from dropout_core.engine.masks import quiet
from dropout_core.graph.inputs import NamedTensors, select_rows, sizes_of
from dropout_core.graph.program import ROWS, Graph, Node, Operation, Program, Site, references, size_names
from dropout_core.graph.sizes import Size
from dropout_core.graph.split import split
from dropout_core.graph.stage import Stage
from mcdrop_models.errors import NotExportable
from mcdrop_models.onnx.graph.halves import OUTPUT, PASSES, Halves, size_name
from mcdrop_models.onnx.to_onnx.convert import Function, Half, Port, converted
from mcdrop_models.onnx.to_onnx.recurrent import exportable
from mcdrop_models.onnx.to_onnx.shapes import Shape, dims_of, free_dims
from mcdrop_models.onnx.to_onnx.sites import Folded, NoisePosition, batched, of_all_passes, placed, with_passes

_ROWS = 2  # more than one, so that torch.export does not take it for a constant
_CPU = torch.device("cpu")


@torch.no_grad()
def halves_of(program: Program, example: NamedTensors) -> Halves:
    """The halves of a Program. Raises NotExportable for an operator that has no counterpart in ONNX.

    example: some rows of its inputs, of which only the types and the shapes matter; free dimensions of 2 or more.
    """
    rows = {name: value.cpu() for name, value in select_rows(two_rows(example), slice(_ROWS)).items()}
    exporter = _Exporter(program, rows)
    halves = Halves(exporter.prefix(), exporter.suffix())
    for half in filter(None, (halves.prefix, halves.suffix)):
        onnx.checker.check_model(half)
    return halves


def _refuse_names(graph: Graph) -> None:
    taken = [spec.name for spec in graph.inputs if spec.name == OUTPUT or spec.name.startswith(("noise.", "size."))]
    if taken:
        raise NotExportable(f"an input is called {taken[0]!r}, as a value of the ONNX files is; give it another name.")


class _Exporter:
    """One Program on its way to ONNX: its parts, and the shapes of what enters and leaves them."""

    def __init__(self, program: Program, example: NamedTensors) -> None:
        self._graph, self._example = program.graph, example
        _refuse_names(program.graph)
        self._weights = {name: weight.detach().cpu() for name, weight in program.weights.items()}
        self._parts = split(program.graph)
        self._crossing = [name for name in self._parts.crossing if name not in self._weights]
        watched = {*self._crossing, *(site.input.name for site in self._graph.sites)}
        self._dims = dims_of(Program(self._graph, self._weights), example, watched)

    def prefix(self) -> onnx.ModelProto | None:
        """What no noise reaches."""
        inputs = [spec.name for spec in self._graph.inputs]
        wanted = [name for name in self._crossing if name not in inputs]
        if not wanted:
            return None
        stage = _stage(self._parts.prefix, wanted)

        def forward(given: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[Tensor]:
            found = stage.run({**weights, **given}, sizes_of(self._graph, given), _CPU, quiet)
            return [found[name] for name in wanted]

        ports = [Port(name, self._example[name], self._dims.values[name]) for name in inputs]
        return self._converted(forward, ports, [(name, self._dims.values[name]) for name in wanted], self._parts.prefix)

    def suffix(self) -> onnx.ModelProto:
        """What noise reaches, for all passes at once: traced over rows alone, and told apart afterwards."""
        values, dtypes = self._examples()
        told = _Told.of(self._graph, self._parts.suffix, {name: self._dims.values[name] for name in self._crossing})
        repeated = self._repeated() if batched(self._graph.sites) else []
        names = {folded.name: of_all_passes(folded.name) for folded in repeated}
        ports = [Port(names.get(name, name), values[name], self._dims.values[name]) for name in self._crossing]
        for name in told.lengths:
            size = sizes_of(self._graph, self._example)[name]
            ports.append(Port(size_name(name), torch.zeros(size, dtype=torch.uint8), (Size(name),)))
        stage, output = _stage(self._parts.suffix, [self._graph.output]), self._graph.output

        def forward(given: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[Tensor]:
            known = {**given, **{name: given[own] for name, own in names.items()}}
            return [stage.run({**weights, **known}, told.sizes(known), _CPU, placed)[output]]

        rows = Size(("mul", PASSES, ROWS)) if batched(self._graph.sites) else Size(ROWS)
        answer = (OUTPUT, (rows, *self._dims.values[output][1:]))
        model = self._converted(forward, ports, [answer], self._parts.suffix)
        places = [self._place(site, dtypes[site.index]) for site in self._graph.sites]
        return with_passes(model, places, told.rows, repeated)

    def _examples(self) -> tuple[dict[str, Tensor], dict[int, torch.dtype]]:
        """What crosses for the example's rows, and the type of each site's input."""
        values: dict[str, Tensor] = dict(self._example)
        dtypes: dict[int, torch.dtype] = {}

        def noise(site: Site, value: Tensor) -> Tensor:
            dtypes[site.index] = value.dtype
            return quiet(site, value)

        stage = Stage(self._graph.nodes, keep=[self._graph.output])
        given = {**self._weights, **self._example}
        stage.run(given, sizes_of(self._graph, self._example), _CPU, noise, values.__setitem__)
        return {name: values[name] for name in self._crossing}, dtypes

    def _repeated(self) -> list[Folded]:
        """The crossing values that have rows, which stand once for each pass."""
        shapes, boundary = self._dims.values, self._graph.boundary
        return [Folded(name, rows, shapes[name]) for name in self._crossing if (rows := boundary[name]) is not None]

    def _place(self, site: Site, dtype: torch.dtype) -> NoisePosition:
        value = () if site.rows is None else self._dims.values[site.input.name]
        return NoisePosition(site, value, self._dims.masks[site.index], dtype)

    def _converted(
        self, function: Function, ports: list[Port], outputs: list[tuple[str, Shape]], nodes: Sequence[Node]
    ) -> onnx.ModelProto:
        used = {name for node in nodes for name in references(node)} | {name for name, _ in outputs}
        weights = {name: weight for name, weight in self._weights.items() if name in used}
        return converted(Half(function, weights, ports, outputs, free_dims(self._graph), nodes))


@dataclass(frozen=True)
class _Told:
    """Where a suffix reads sizes: the crossing value and its axis for rows and free dimensions, and what must be said.

    rows: the value and where it has them. free: by name, value and axis. lengths: what no crossing value tells.
    """

    rows: Folded
    free: Mapping[str, tuple[str, int]]
    lengths: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph, nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> "_Told":
        """Raises NotExportable where no value has rows."""
        for name, where in graph.boundary.items():
            if name in shapes and where is not None:
                rows = Folded(name, where, shapes[name])
                break
        else:
            raise NotExportable("no value of the rows reaches what is random; nothing would tell how many there are.")
        wanted = sorted({name for node in nodes for name in size_names(node)} - {ROWS})
        free = {
            size.expression: (name, axis)
            for name, shape in shapes.items()
            for axis, size in enumerate(shape)
            if isinstance(size, Size) and size.expression in wanted
        }
        return cls(rows, free, tuple(name for name in wanted if name not in free))

    def sizes(self, given: Mapping[str, Tensor]) -> dict[str, int]:
        """The sizes, of inputs by name."""
        where = self.rows.rows
        sizes = {ROWS: given[self.rows.name].shape[where.axis] // (where.before * where.after)}
        sizes |= {free: given[name].shape[axis] for free, (name, axis) in self.free.items()}
        return sizes | {free: given[size_name(free)].shape[0] for free in self.lengths}


def _stage(nodes: Iterable[Node], keep: Iterable[str]) -> Stage:
    return Stage([exportable(node) if isinstance(node, Operation) else node for node in nodes], keep)
