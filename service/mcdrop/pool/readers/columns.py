"""The columns of a table: which hold inputs, ids and costs."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropout_core.errors import InvalidInput
from mcdrop_models.bundle.manifest import InputSpec


@dataclass(frozen=True)
class SpecialColumns:
    """Columns that do not belong to an input.

    Attributes:
        ids: Column of the row ids, or None.
        costs: Column of the label costs, or None.
        besides: Further columns that are ignored if the table has them.
    """

    ids: str | None = None
    costs: str | None = None
    besides: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of ids and costs that are set."""
        return tuple(name for name in (self.ids, self.costs) if name is not None)


def columns_of(
    path: Path, names: Sequence[str], specs: Mapping[str, InputSpec], apart: SpecialColumns
) -> dict[str, tuple[str, ...]]:
    """Return the columns of each input.

    Args:
        path: The table, for errors.
        names: All columns of the table.
        specs: The inputs of the model, by name.
        apart: The columns that do not belong to an input.

    Returns:
        The column with the name of the input; for a model with one input, otherwise all columns in order.
    """
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidInput(f"{path} has two columns {twice[0]!r}; give each a name of its own.")
    absent = [name for name in apart.names if name not in names]
    if absent:
        raise InvalidInput(f"{path} has no column {absent[0]!r}; it has {_listed(names)}.")
    if set(specs) <= set(names):
        return {name: (name,) for name in specs}
    others = tuple(name for name in names if name not in (*apart.names, *apart.besides))
    if len(specs) > 1 or not others:
        raise InvalidInput(
            f"{path} has the columns {_listed(names)}; one for each input is wanted: {', '.join(specs)}."
        )
    return dict.fromkeys(specs, others)


def extra(module: str, path: Path) -> Any:
    """Import an optional library.

    Args:
        module: Name of the module.
        path: The pool that needs it, for the error.

    Returns:
        The module.

    Raises:
        InvalidInput: The library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidInput(f"{path} needs {module.partition('.')[0]}: pip install 'mcdrop[pools]'.") from error


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", … {len(names)} in all" if len(names) > 8 else "")
