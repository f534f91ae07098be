"""Translate the caller's ids, groups and class names to limits of a choice, and bound what a server holds."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dropout_core.acquire.options import PREDICTED, RankOptions
from dropout_core.acquire.vocabulary import EPIG
from dropout_core.errors import InvalidInput
from mcdrop_models.bundle.manifest import Manifest

_MOST_DIGITS = 18
Groups = Sequence[str | int] | Literal["predicted_class"]


def excluded_rows(exclude: Sequence[str | int] | None, ids: Sequence[str | int] | None, num_rows: int) -> list[int]:
    """Return the indices of the excluded rows.

    Args:
        exclude: Ids, which are compared as text, or row numbers if there are no ids.
        ids: Ids of all rows, or None.
        num_rows: Number of rows in the pool.

    Returns:
        Row indices.

    Raises:
        InvalidInput: An excluded row does not exist.
    """
    if exclude is None:
        return []
    if ids is None:
        return [_index(one, num_rows) for one in exclude]
    named: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        named.setdefault(str(name), []).append(row)
    unknown = [one for one in exclude if str(one) not in named]
    if unknown:
        raise InvalidInput(f"exclude has {str(unknown[0])[:64]!r}, which is none of the ids; send ids of rows.")
    return [row for one in exclude for row in named[str(one)]]


def chosen_groups(
    groups: Groups | None, quotas: Mapping[str, int] | int | None, manifest: Manifest
) -> tuple[Sequence[str] | Literal["predicted_class"] | None, Mapping[Any, int] | int | None]:
    """Return the groups and quotas in the form that the core takes.

    Args:
        groups: The group of each row, "predicted_class", or None.
        quotas: Most rows per group: one number, or one by group.
        manifest: Manifest of the model, which names the classes.

    Returns:
        Groups as text, and quotas by group; quotas of predicted classes are by class number.

    Raises:
        InvalidInput: The model does not have a class.
    """
    if groups == PREDICTED:
        if not isinstance(quotas, Mapping):
            return PREDICTED, quotas
        return PREDICTED, {_class(name, manifest): most for name, most in quotas.items()}
    return None if groups is None else [str(group) for group in groups], quotas


def refuse_too_many(asked: RankOptions, passes: int, numbers: int, most: int) -> None:
    """Refuse a choice that would hold too many numbers.

    Args:
        asked: The options of the choice.
        passes: Number of passes.
        numbers: Numbers of all passes of a row.
        most: Limit of the numbers that are held.

    Raises:
        InvalidInput: The choice would hold more.
    """
    held = {}
    if asked.score == EPIG:
        held["targets"] = asked.num_targets * numbers
    if asked.selector == "batchbald":
        held["candidates"] = min(asked.most_candidates, asked.num_rows) * numbers
        held["num_samples"] = (asked.num_samples or 0) * passes
    for name, count in held.items():
        if count > most:
            raise InvalidInput(
                f"{name} make this server hold {count} numbers of their passes; it holds up to {most}. Ask for fewer "
                f"{name}, or for fewer passes."
            )


def _index(one: str | int, num_rows: int) -> int:
    """Return the index of a row number, which is text in a query string."""
    if isinstance(one, str) and not _is_whole(one):
        raise InvalidInput(f"exclude has {one[:64]!r} and there are no ids; send indices of rows, or ids.")
    if not 0 <= int(one) < num_rows:
        raise InvalidInput(f"exclude has {str(one)[:64]}; the rows are 0 … {num_rows - 1}.")
    return int(one)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def _class(name: str, manifest: Manifest) -> int:
    """Return the number of a class from its label or from its number as text."""
    labels = manifest.labels or ()
    if name in labels:
        return list(labels).index(name)
    if _is_whole(name) and int(name) < manifest.num_outputs:
        return int(name)
    known = ", ".join(labels) or f"0 … {manifest.num_outputs - 1}"
    raise InvalidInput(f"quotas has {name[:64]!r}, which is no class of {manifest.name}; there are {known}.")
