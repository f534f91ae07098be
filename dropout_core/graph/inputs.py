"""A network's inputs by name, rows first: whether they fit its graph, their sizes, and some of their rows."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.graph.program import ROWS, Graph, Input

NamedTensors = Mapping[str, Tensor]


def inputs_by_name(graph: Graph, inputs: Tensor | tuple[Tensor, ...] | NamedTensors) -> dict[str, Tensor]:
    """Inputs by the names a graph has for them; a tensor stands for the only one, a tuple for all in order.

    Raises InvalidInput for others.
    """
    names = [spec.name for spec in graph.inputs]
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    given = dict(zip(names, inputs, strict=False)) if isinstance(inputs, tuple) else inputs
    if len(inputs) != len(names) or set(given) != set(names):
        came = f"{len(inputs)} without names" if isinstance(inputs, tuple) else ", ".join(map(str, given)) or "none"
        raise InvalidInput(f"the inputs that came are {came}; the network takes {', '.join(names)}: a tensor for each.")
    return {name: given[name] for name in names}


def sizes_of(graph: Graph, inputs: NamedTensors) -> dict[str, int]:
    """The number of rows of inputs and the sizes of their free dimensions. Raises InvalidInput where they misfit."""
    sizes: dict[str, int] = {}
    for spec in graph.inputs:
        shape, wanted = tuple(inputs[spec.name].shape), (ROWS, *spec.shape)
        if len(shape) != len(wanted):
            raise _misfit(spec, shape, sizes)
        for size, known in zip(shape, wanted, strict=True):
            if size != (sizes.setdefault(known, size) if isinstance(known, str) else known):
                raise _misfit(spec, shape, sizes)
    for free in graph.free:
        if not free.allows(sizes[free.name]):
            raise InvalidInput(f"the {free.name} is {sizes[free.name]}; {free} is allowed. Pad what is shorter.")
    return sizes


def num_rows(inputs: NamedTensors) -> int:
    """How many rows the inputs have."""
    return len(next(iter(inputs.values())))


def select_rows(inputs: NamedTensors, rows: slice | Tensor) -> dict[str, Tensor]:
    """Some rows of every input."""
    return {name: value[rows] for name, value in inputs.items()}


def split_rows(inputs: NamedTensors, count: int) -> Iterator[dict[str, Tensor]]:
    """The inputs in parts of `count` rows, in order."""
    for start in range(0, num_rows(inputs), count):
        yield select_rows(inputs, slice(start, start + count))


def _misfit(spec: Input, shape: Sequence[int], sizes: Mapping[str, int]) -> InvalidInput:
    wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in (ROWS, *spec.shape)]
    inner = ", ".join(map(str, wanted))
    return InvalidInput(
        f"{spec.name} has shape {list(shape)}; [{inner}] is wanted, rows first: every input has as many rows, and what "
        "has one name has one size."
    )
