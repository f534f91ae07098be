"""A pool and what belongs to it as arrays by name: the members of a .npz, or the tensors of a frame.

`inputs.NAME`, `labelled.NAME` and `targets.NAME` are rows of the input NAME. Of a model of one input NAME may be left
out; and NAME alone is an input, as in predict. `costs`, `groups`, `exclude` and `ids` are those fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mcdrop.errors import InvalidRequest
from mcdrop.wire.npy import Array

_ROWS, _LISTS = ("inputs", "labelled", "targets"), ("costs", "groups", "exclude", "ids")


def fields_of(members: Mapping[str, Array], inputs: Sequence[str]) -> dict[str, Any]:
    """The fields that members are: rows as arrays by input, the others as lists. inputs: the names of the model's.

    Raises InvalidRequest for a member that is nothing, and for rows that are sent twice.
    """
    fields: dict[str, Any] = {}
    for member, values in members.items():
        field, name = _place(member, inputs)
        if field in _LISTS:
            fields[field] = values.tolist()
            continue
        rows = fields.setdefault(field, {})
        if name in rows:
            raise InvalidRequest(f"{field} of {name} are there twice, once as {member!r}; send them once.")
        rows[name] = values
    return fields


def _place(member: str, inputs: Sequence[str]) -> tuple[str, str]:
    """The field of a member, and the input where it is rows."""
    field, _, name = member.partition(".")
    if member in inputs:
        return "inputs", member
    if field in _ROWS and name in inputs:
        return field, name
    if member in _ROWS and len(inputs) == 1:
        return member, inputs[0]
    if member in _LISTS:
        return member, ""
    known = [f"{one}.{name}" for one in _ROWS for name in inputs]
    raise InvalidRequest(f"{member[:64]!r} is nothing of a pool; there are {', '.join((*known, *_LISTS))}.")
