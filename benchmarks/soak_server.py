"""`mcdrop serve`, whose engine fails when it is told to: the same app and the same uvicorn, the run wrapped.

Run: python soak_server.py FOLDER, with the settings in the environment. A file FOLDER/fail makes the next batch raise,
and raise again when the first of its requests is tried alone: that one must fail, its neighbours must not. FOLDER/die
ends the thread that computes. Each file is removed when it is obeyed.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mcdrop.inference.batch import Result, run_batch
from mcdrop.inference.scheduler import Slice
from mcdrop.server.app import create_app
from mcdrop.server.memory import share_heap
from mcdrop.server.run import run_server
from mcdrop.settings import Settings


class Told:
    """The engine's run, and what it is told to do instead."""

    def __init__(self, folder: Path) -> None:
        self._fail, self._die = folder / "fail", folder / "die"
        self._condemned = 0

    def __call__(self, batch: Sequence[Slice]) -> list[Result | Exception]:
        if self._die.exists():
            self._die.unlink()
            raise SystemExit("told to die")
        if self._fail.exists():
            self._fail.unlink()
            self._condemned = id(batch[0].ticket)
        if any(id(one.ticket) == self._condemned for one in batch):
            self._condemned = self._condemned if len(batch) > 1 else 0
            raise RuntimeError("told to fail")
        return list(run_batch(batch))


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    settings = Settings()
    share_heap()
    app = create_app(settings)
    app.state.mcdrop.compute = Told(Path(sys.argv[1]))
    run_server(app, settings)


if __name__ == "__main__":
    main()
