"""What a surgery did, and its way back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import nn

from dropout_core.errors import InvalidInput


class Change(Protocol):
    """One thing a surgery does to a model. `touched`: the modules that it is about."""

    @property
    def path(self) -> str:
        """Where in the model."""

    @property
    def touched(self) -> tuple[nn.Module, ...]:
        """The modules that may not be operated on again before this is undone."""

    def apply(self) -> None:
        """Do it."""

    def in_place(self) -> bool:
        """Whether the model still is as `apply` left it."""

    def revert(self) -> None:
        """Leave everything as it was before `apply`."""


# For each module the surgeries that touched it, the last one at the end. What stands for a surgery holds no module:
# a value that held its key would keep it alive for good.
_touched: WeakKeyDictionary[nn.Module, list[object]] = WeakKeyDictionary()


class Surgery:
    """Changes that are done together, or not at all, and undone together."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes, self._token, self._undone = tuple(changes), object(), False
        done: list[Change] = []
        try:
            for change in self._changes:
                change.apply()
                done.append(change)
        except Exception:
            _revert(done)
            raise
        for module in self._modules():
            _touched.setdefault(module, []).append(self._token)

    def undo(self) -> None:
        """Revert all changes. Raises InvalidInput, and reverts none, where that cannot be done."""
        if self._undone:
            raise InvalidInput("this surgery is undone already; each can be undone once.")
        for change in self._changes:
            if any(_touched[module][-1] is not self._token for module in change.touched):
                raise InvalidInput(f"{change.path!r} was operated on again; undo the later surgery first.")
            if not change.in_place():
                raise InvalidInput(f"{change.path!r} was changed by other means; put it back as the surgery left it.")
        _revert(self._changes)
        for module in self._modules():
            _touched[module].pop()
        self._undone = True

    def _modules(self) -> list[nn.Module]:
        return list(dict.fromkeys(module for change in self._changes for module in change.touched))


def _revert(changes: Sequence[Change]) -> None:
    for change in reversed(changes):
        change.revert()


@dataclass(frozen=True)
class Entry:
    """One place: its path, or the line of a function's call; what stood there; what stands there now, or why not."""

    path: str
    was: str
    note: str


@dataclass(frozen=True)
class Report:
    """What a surgery found, changed and left alone.

    action: what was called. found: every place that was looked at, in the order of the model. changed: those among them
    that are something else now, which `note` says. left_alone: the others, and why. remark: what could not be seen.
    """

    action: str
    changed: tuple[Entry, ...]
    left_alone: tuple[Entry, ...]
    found: tuple[Entry, ...]
    remark: str
    _surgery: Surgery = field(repr=False, compare=False)

    def undo(self) -> None:
        """Put the very same modules, rates and state_dict keys back.

        Raises InvalidInput, and changes nothing, when that was done already, or when a later surgery, which has to be
        undone first, or other code changed the same place.
        """
        self._surgery.undo()

    def __str__(self) -> str:
        """The report as a table."""
        lines = [f"{self.action}: {len(self.changed)} changed, {len(self.left_alone)} left alone"]
        for title, entries in (("changed", self.changed), ("left alone", self.left_alone)):
            if entries:
                lines += [title, *_table(entries)]
        return "\n".join([*lines, self.remark] if self.remark else lines)


def _table(entries: Sequence[Entry]) -> Iterable[str]:
    paths, were = (max(map(len, column)) for column in zip(*((each.path, each.was) for each in entries), strict=True))
    return [f"  {each.path:<{paths}}  {each.was:<{were}}  {each.note}" for each in entries]


class Notes:
    """A report in the making: entries in the order in which they are noted."""

    def __init__(self, action: str) -> None:
        self._action, self._entries = action, list[tuple[Entry, bool]]()

    def changed(self, path: str, was: str, now: str) -> None:
        """Something becomes something else."""
        self._entries.append((Entry(path, was, now), True))

    def left(self, path: str, was: str, why: str) -> None:
        """Something stays as it is."""
        self._entries.append((Entry(path, was, why), False))

    def report(self, changes: Sequence[Change], remark: str = "") -> Report:
        """Do the changes and say so."""
        changed, left = (
            tuple(each for each, is_changed in self._entries if is_changed is half) for half in (True, False)
        )
        found = tuple(each for each, _ in self._entries)
        return Report(self._action, changed, left, found, remark, Surgery(changes))


def described(module: nn.Module) -> str:
    """A module without its children, such as "Dropout(p=0.5, inplace=False)"."""
    return f"{type(module).__name__}({module.extra_repr()})"
