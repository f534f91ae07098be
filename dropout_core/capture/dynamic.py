"""Free dimensions: those in which other inputs may differ from the example, such as the length of a sequence.

torch.export takes every size but 0 and 1 for alike, so the smallest one allowed is tried out (dropout_core.verify).
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.export import Dim

from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors
from dropout_core.graph.program import ROWS, FreeDimension, Graph

Dynamic = Mapping[str, Mapping[int, str | Dim]]
Axes = Mapping[str, Mapping[int, FreeDimension]]


def free_axes(dynamic: Dynamic | None, inputs: NamedTensors) -> Axes:
    """The free axes of each input, from what a caller says. Raises InvalidInput for axes that there are not.

    dynamic: for an input, and an axis of it, the name of its size or a torch.export.Dim, which has bounds as well. One
    name is one size wherever it stands. The rows, axis 0, are free by themselves.
    """
    axes: dict[str, dict[int, FreeDimension]] = {}
    for name, by_axis in (dynamic or {}).items():
        if name not in inputs:
            raise InvalidInput(f"dynamic names the input {name!r}; there are {', '.join(inputs)}.")
        for axis, said in by_axis.items():
            _refuse_axis(name, axis, inputs[name])
            axes.setdefault(name, {})[axis] = _free(said)
    names = [free.name for free in all_free(axes)]
    if len(set(names)) < len(names):
        raise InvalidInput(f"dynamic gives {max(names, key=names.count)} two ranges; say one Dim wherever it stands.")
    return axes


def all_free(axes: Axes) -> list[FreeDimension]:
    """Every free dimension once, by name."""
    return sorted({free for by_axis in axes.values() for free in by_axis.values()}, key=lambda free: free.name)


def refuse_constant(axes: Axes, example: NamedTensors) -> None:
    """Raise InvalidInput for an example in which a free dimension is too small to be told from a constant."""
    for name, by_axis in axes.items():
        for axis, free in by_axis.items():
            size = example[name].shape[axis]
            if size < 2 or not free.allows(size):
                raise InvalidInput(
                    f"the {free.name} of {name} is {size} in the example, and {free} is allowed; give one of at least "
                    "2, so that torch.export can tell it from a constant."
                )


def dimensions(axes: Axes, example: NamedTensors) -> dict[str, dict[int, Dim]]:
    """The dynamic axes of each input as torch.export wants them, rows included."""
    rows = Dim(ROWS)
    dims = {free: Dim(free.name, min=free.least, max=free.most) for free in all_free(axes)}
    return {name: {0: rows, **{axis: dims[free] for axis, free in axes.get(name, {}).items()}} for name in example}


def shorter(graph: Graph, inputs: NamedTensors) -> Iterator[tuple[dict[str, int], dict[str, Tensor]]]:
    """The inputs cut to other sizes of their free dimensions, with those sizes: the smallest allowed, and one less."""
    now = {
        size: inputs[spec.name].shape[axis]
        for spec in graph.inputs
        for axis, size in enumerate(spec.shape, start=1)
        if isinstance(size, str)
    }
    least = {free.name: free.least for free in graph.free}
    one_less = {name: max(size - 1, least[name]) for name, size in now.items()}
    for sizes in (least, one_less) if one_less != least else (least,):
        if sizes != now:
            yield sizes, _cut(graph, inputs, sizes)


def _cut(graph: Graph, inputs: NamedTensors, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The beginnings of free dimensions. Whole numbers without one are kept to the new size: they may be lengths."""
    cut = {}
    for spec in graph.inputs:
        value = inputs[spec.name]
        for axis, size in enumerate(spec.shape, start=1):
            value = value.narrow(axis, 0, sizes[size]) if isinstance(size, str) else value
        fixed = not any(isinstance(size, str) for size in spec.shape)
        whole = fixed and not value.is_floating_point() and value.dtype != torch.bool
        cut[spec.name] = value.clamp_max(min(sizes.values())) if whole else value
    return cut


def _free(said: object) -> FreeDimension:
    if isinstance(said, str) and said.isidentifier() and said != ROWS:
        return FreeDimension(said, 1)
    if type(said) is Dim and said.__name__ != ROWS:
        most = said.max if isinstance(said.max, int) else None
        return FreeDimension(said.__name__, max(1, int(said.min)), most)
    raise InvalidInput(f"dynamic names a size {said!r}; give a word other than {ROWS!r}, or a torch.export.Dim.")


def _refuse_axis(name: str, axis: object, value: Tensor) -> None:
    if not isinstance(axis, int) or not 0 < axis < value.dim():
        raise InvalidInput(
            f"dynamic names the axis {axis!r} of {name}, which has the axes 0 … {value.dim() - 1}; rows, axis 0, are "
            "free by themselves."
        )
