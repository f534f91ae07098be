"""A network's inputs by name, rows first: checks against its graph, sizes, and selections of rows."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from dropout_core.errors import InvalidInput
from dropout_core.graph.program import ROWS, Graph, Input

NamedTensors = Mapping[str, Tensor]


def inputs_by_name(graph: Graph, inputs: Tensor | tuple[Tensor, ...] | NamedTensors) -> dict[str, Tensor]:
    """Return inputs by the names that a graph has for them.

    Args:
        graph: The graph.
        inputs: A tensor for the only input, a tuple for all in order, or a mapping by name.

    Returns:
        Tensors [B, *F] by name.

    Raises:
        InvalidInput: The names, or their number, differ from those of the graph.
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
    """Return the number of rows of inputs and the sizes of their free dimensions.

    Args:
        graph: The graph.
        inputs: Tensors by name.

    Returns:
        Sizes by name; the number of rows is called "rows".

    Raises:
        InvalidInput: A shape does not fit. The dtype is not checked.
    """
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
    """Return the number of rows.

    Args:
        inputs: Tensors by name.

    Returns:
        B.
    """
    return len(next(iter(inputs.values())))


def select_rows(inputs: NamedTensors, rows: slice | Tensor) -> dict[str, Tensor]:
    """Return some rows of every input.

    Args:
        inputs: Tensors by name.
        rows: A slice, row numbers, or a bool for each row.

    Returns:
        Tensors by name.
    """
    return {name: value[rows] for name, value in inputs.items()}


def split_rows(inputs: NamedTensors, count: int) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs in parts of `count` rows, in order.

    Args:
        inputs: Tensors by name.
        count: Rows of a part.

    Yields:
        Tensors by name.
    """
    for start in range(0, num_rows(inputs), count):
        yield select_rows(inputs, slice(start, start + count))


def _misfit(spec: Input, shape: Sequence[int], sizes: Mapping[str, int]) -> InvalidInput:
    wanted = [sizes.get(size, size) if isinstance(size, str) else size for size in (ROWS, *spec.shape)]
    inner = ", ".join(map(str, wanted))
    return InvalidInput(
        f"{spec.name} has shape {list(shape)}; [{inner}] is wanted, rows first: every input has as many rows, and what "
        "has one name has one size."
    )
