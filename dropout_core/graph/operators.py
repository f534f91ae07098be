"""Arguments of operator calls."""

from collections.abc import Mapping, Sequence
from typing import Any


def arguments_by_name(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operator call by name, whether they were positional or not.

    Args:
        target: The operator.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        Arguments by name.
    """
    return {**{argument.name: value for argument, value in zip(target._schema.arguments, args, strict=False)}, **kwargs}
