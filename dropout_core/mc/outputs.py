"""A forward's outputs by name, and the one that matters.

Elements of tuples and lists are named by their place, those of mappings by their key, nested ones as in "hidden.0".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from dropout_core.errors import InvalidInput

Result = str | int | None


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
