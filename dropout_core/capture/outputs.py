"""A forward's outputs by name, the one that matters, and the axis of it that its classes or targets lie on.

Elements of tuples and lists are named by their place, those of mappings by their key, nested ones as in "hidden.0".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from dropout_core.errors import InvalidInput

Result = str | int | None
_MOST_OBVIOUS = 3  # axes: rows, positions, classes


def is_tensor(value: Any) -> bool:
    """Whether a live output is a tensor."""
    return isinstance(value, Tensor)


def pick(outputs: Any, result: Result, is_wanted: Callable[[Any], bool]) -> Any:
    """The tensor of a name or a place among outputs. Where there is one tensor only, None means it.

    Raises InvalidInput, listing those there are.
    """
    found = {name: value for name, value in _leaves(outputs, "") if is_wanted(value)}
    if result is None and len(found) == 1:
        return next(iter(found.values()))
    if result is not None and str(result) in found:
        return found[str(result)]
    if not found:
        raise InvalidInput("the forward returns no tensor; return one, rows first.")
    if "" in found:
        raise InvalidInput(f"the result {result!r} was named; the forward returns one tensor, without a name.")
    asked = "none of them was named" if result is None else f"none of them is {result!r}"
    raise InvalidInput(
        f"the forward returns {len(found)} tensors, {', '.join(map(repr, found))}, and {asked}: say which one matters, "
        f"such as result={next(iter(found))!r}."
    )


def class_axis_of(dims: int, said: int | None) -> int:
    """The axis of the classes or targets of an output of so many axes, rows first; the others are positions.

    said: by the caller, counted from the end where it is negative. Where nothing is said it is the last, unless there
    are several axes of positions: images have their classes first, and no shape tells. Raises InvalidInput.
    """
    if said is None and dims > _MOST_OBVIOUS:
        raise InvalidInput(
            f"the network answers with {dims} axes, and their order says nothing; say where its classes or targets "
            f"are: class_axis=1 for [rows, classes, height, width], class_axis=-1 where they come last."
        )
    if said is None:
        return dims - 1
    if not -dims < said < dims or said == 0:
        allowed = f"1 … {dims - 1} are allowed, and -1 for the last" if dims > 1 else "leave it out"
        raise InvalidInput(f"class_axis is {said}; the network answers with {dims} axes, rows first: {allowed}.")
    return said % dims


def classes_last(output: Tensor, class_axis: int | None) -> Tensor:
    """An output [B, …] with its classes or targets last; [B] has none. Raises as `class_axis_of`."""
    return output.movedim(class_axis_of(output.dim(), class_axis), -1)


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        parts: Sequence[tuple[Any, Any]] = list(tree.items())
    elif isinstance(tree, tuple | list):
        parts = list(enumerate(tree))
    else:
        yield path, tree
        return
    for key, part in parts:
        yield from _leaves(part, f"{path}.{key}" if path else str(key))
