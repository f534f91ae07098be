"""The shapes of a network's values as expressions of the number of rows and of free dimensions."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from dropout_core.engine.masks import mask_shape
from dropout_core.engine.masks import quiet as off
from dropout_core.graph.inputs import NamedTensors, sizes_of
from dropout_core.graph.program import ROWS, Graph, Program, Site
from dropout_core.graph.sizes import Expression, Size
from dropout_core.graph.stage import Stage
from mcdrop_models.errors import NotExportable
from mcdrop_models.onnx.graph.halves import MASKS, PASSES

Shape = tuple[int | Size, ...]
_TAKEN = (PASSES, MASKS)
_OPERATORS = {"Add": "add", "Mul": "mul", "FloorDiv": "floordiv", "Mod": "mod", "PythonMod": "mod"}


@dataclass(frozen=True)
class Dims:
    """values: the shapes of some values, by name. masks: those of one pass of each site's mask, by its index."""

    values: Mapping[str, Shape]
    masks: Mapping[int, Shape]


def dims_of(program: Program, example: NamedTensors, watched: Collection[str]) -> Dims:
    """The shapes of the inputs, the output and the watched values, and of the masks, from one symbolic run."""
    graph, free = program.graph, free_dims(program.graph)
    axes = {
        spec.name: {0: ROWS} | {axis: size for axis, size in enumerate(spec.shape, 1) if isinstance(size, str)}
        for spec in graph.inputs
    }
    dynamic = {name: {axis: free[size] for axis, size in by_axis.items()} for name, by_axis in axes.items()}
    seen, masks = dict[str, tuple[Any, ...]](), dict[int, tuple[Any, ...]]()

    def noise(site: Site, value: Tensor) -> Tensor:
        masks[site.index] = mask_shape(site, value)[0]
        return off(site, value)

    def observe(name: str, value: Any) -> None:
        if name in watched or name == graph.output:
            seen[name] = tuple(value.shape)

    def traced(inputs: dict[str, Tensor]) -> Tensor:
        stage, sizes = Stage(graph.nodes, keep=[graph.output]), sizes_of(graph, inputs)
        output: Tensor = stage.run({**program.weights, **inputs}, sizes, torch.device("cpu"), noise, observe)[
            graph.output
        ]
        return output

    exported = torch.export.export(
        _Traced(traced), (dict(example),), dynamic_shapes=(dynamic,), prefer_deferred_runtime_asserts_over_guards=True
    )
    placeholders = list(exported.graph.find_nodes(op="placeholder"))[-len(example) :]
    symbols = {
        node.meta["val"].shape[axis].node.expr: size
        for node, name in zip(placeholders, example, strict=True)
        for axis, size in axes[name].items()
    }
    inputs = {
        spec.name: (Size(ROWS), *(Size(size) if isinstance(size, str) else size for size in spec.shape))
        for spec in graph.inputs
    }
    values = {name: _shape(shape, symbols) for name, shape in seen.items()}
    return Dims(inputs | values, {index: _shape(shape, symbols) for index, shape in masks.items()})


def free_dims(graph: Graph) -> dict[str, Dim]:
    """The sizes that are not fixed, as torch.export wants them. No user's name is one of Python's or of ours.

    Raises NotExportable for a name that stands for something else in our files.
    """
    for one in graph.free:
        if one.name in _TAKEN:
            raise NotExportable(
                f"a free dimension is named {one.name}, which has a meaning of its own in ONNX halves; "
                "capture the network with another name for it."
            )
    free = {one.name: Dim(f"free_{one.name}", min=one.least, max=one.most) for one in graph.free}
    return {ROWS: Dim(ROWS, min=1), **free}


class _Traced(nn.Module):
    """A function as torch.export wants it."""

    def __init__(self, function: Callable[[dict[str, Tensor]], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """The output for inputs by name."""
        return self._function(inputs)


def _shape(shape: tuple[Any, ...], symbols: Mapping[Any, str]) -> Shape:
    return tuple(size if isinstance(size, int) else _size(size.node.expr, symbols) for size in shape)


def _size(symbolic: Any, symbols: Mapping[Any, str]) -> int | Size:
    expression = _expression(symbolic, symbols)
    return expression if isinstance(expression, int) else Size(expression)


def _expression(symbolic: Any, symbols: Mapping[Any, str]) -> Expression:
    """A sympy expression as a tree of our own. Raises NotExportable for one of other operators."""
    if symbolic.is_Integer:
        return int(symbolic)
    if symbolic in symbols:
        return symbols[symbolic]
    operator = _OPERATORS.get(type(symbolic).__name__)
    if operator is None:
        raise NotExportable(f"a value's size is {symbolic}; sums, products, // and % of sizes can be exported.")
    first, *others = [_expression(term, symbols) for term in symbolic.args]
    for term in others:
        first = (operator, first, term)
    return first
