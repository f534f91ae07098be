"""Records what Python does in a block: files opened, folders listed, programs started, code compiled or run."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcdrop_models.bundle.repository import MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE, Repository
from mcdrop_models.errors import InvalidBundle
from mcdrop_models.loading.predictor import Predictor

_LOOKS = ("open", "os.listdir", "os.scandir", "mmap.__new__")
_WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil")
_RUNS = ("exec", "compile", "import", "marshal", "code.__new__", "pickle", "ctypes", "socket")
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess")
_WATCHED = (*_LOOKS, *_WRITES, *_RUNS, *_STARTS)

_recorded: list[tuple[str, tuple[Any, ...]]] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _recorded is not None and event.startswith(_WATCHED):
        _recorded.append((event, args))


sys.addaudithook(_hook)  # a hook cannot be removed; this one is idle outside of watched()


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """Record the audit events of a block."""
    global _recorded  # noqa: PLW0603 - an audit hook has no other way to know
    _recorded = events = []
    try:
        yield events
    finally:
        _recorded = None


def outside_of(folder: Path, events: list[tuple[str, tuple[Any, ...]]]) -> list[tuple[str, str]]:
    """Return the events other than reading a bundle's three files and listing the folders above them."""
    allowed = {("open", str(folder / file)) for file in (MANIFEST_FILE, PROGRAM_FILE, WEIGHTS_FILE)}
    allowed |= {(look, str(folder.parent)) for look in ("os.listdir", "os.scandir")}
    seen = [(event, str(args[0]) if args else "") for event, args in events]
    return [event for event in seen if event not in allowed]


def refused(root: Path) -> str:
    """Return why net/1 is refused. Fail if it loads, raises another error, or opens or runs anything."""
    with watched() as events, pytest.raises(InvalidBundle) as caught:
        Predictor.load(Repository(root), "net", 1)
    assert outside_of(root / "net" / "1", events) == []
    return str(caught.value)
