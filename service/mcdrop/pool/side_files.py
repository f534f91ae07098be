"""The files beside a pool: excluded rows, label costs and groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dropout_core.errors import InvalidInput
from mcdrop.pool.readers.base import Pool


def excluded_rows(path: Path, pool: Pool) -> list[int]:
    """Read the rows to exclude from a file with one row per line.

    Args:
        path: The file. It names rows by id if the pool has ids, otherwise by number.
        pool: The pool.

    Returns:
        Row indices.
    """
    names = _lines(path)
    places = {str(one): row for row, one in enumerate(pool.ids)} if pool.ids is not None else None
    if places is None:
        wrong = [name for name in names if not (name.isdecimal() and int(name) < pool.num_rows)]
        kind = f"its rows are 0 … {pool.num_rows - 1}"
    else:
        wrong = [name for name in names if name not in places]
        kind = "its rows are named by their ids"
    if wrong:
        raise InvalidInput(f"{path} names the row {wrong[0]!r}, which {pool.path} has not; {kind}.")
    return [int(name) if places is None else places[name] for name in names]


def costs_of(path: Path | None, pool: Pool) -> Tensor | None:
    """Read the cost of each label.

    Args:
        path: A file with one number per line; None to use the cost column of the pool.
        pool: The pool.

    Returns:
        Costs, [N], or None.
    """
    if path is None:
        return None if pool.costs is None else torch.from_numpy(np.asarray(pool.costs, dtype=np.float64))
    if pool.costs is not None:
        raise InvalidInput(f"costs come from {path} and from a column of {pool.path}; give one of the two.")
    found = []
    for number, line in enumerate(_for_each(path, pool, "costs")):
        try:
            found.append(float(line))
        except ValueError as error:
            raise InvalidInput(f"{path}: the cost of row {number} is {line[:20]!r}; a number is wanted.") from error
    return torch.tensor(found, dtype=torch.float64)


def groups_of(path: Path, pool: Pool) -> Sequence[str]:
    """Read the group of each row from a file with one group per line.

    Args:
        path: The file.
        pool: The pool.

    Returns:
        The groups, one per row.
    """
    return _for_each(path, pool, "groups")


def _for_each(path: Path, pool: Pool, what: str) -> list[str]:
    lines = _lines(path)
    if len(lines) != pool.num_rows:
        raise InvalidInput(f"{path} has {len(lines)} {what}; one for each of the {pool.num_rows} rows is wanted.")
    return lines


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as lines of text: {error}.") from error
