"""Checks of a client, run by the plain python of its own environment: numpy is all that it needs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# The promise: the same answer to so much of its scale, whoever asks at the same time.
CLOSE = 1e-5
_checks: list[Callable[[], None]] = []


def check(body: Callable[[], None]) -> Callable[[], None]:
    """A check, which raises when it fails. Its name is printed."""
    _checks.append(body)
    return body


class Served:
    """What a script is told: the server's address, a folder to write to, rows, and the engine's answer to them."""

    def __init__(self) -> None:
        self.url, folder = sys.argv[1:]
        self.folder = Path(folder)
        with np.load(self.folder / "wanted.npz", allow_pickle=False) as file:
            self.wanted = dict(file)
        self.rows = self.wanted.pop("rows")

    def assert_wanted(self, outputs: dict[str, Any]) -> None:
        """Whether outputs by name are the engine's, all of them."""
        assert set(outputs) == set(self.wanted), sorted(outputs)
        for name, wanted in self.wanted.items():
            found = np.asarray(outputs[name])
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), (name, found.shape, found.dtype)
            assert np.abs(found - wanted).max() <= CLOSE * np.abs(wanted).max(), name


def run() -> None:
    """Run what was marked, a line for each; leaves with 1 where one failed."""
    failed = 0
    for body in _checks:
        try:
            body()
        except Exception as error:  # noqa: BLE001 - the others are run as well
            failed += 1
            print(f"failed {body.__name__}: {type(error).__name__}: {error}", flush=True)  # noqa: T201
        else:
            print(f"passed {body.__name__}", flush=True)  # noqa: T201
    sys.exit(failed > 0)
