"""What active_learning.py has finished: a file of lines, so that a run that was killed goes on where it was."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Round:
    """One training of one strategy and seed, what it reached, and what it then chose from the pool."""

    strategy: str
    seed: int
    step: int
    labels: int
    accuracy: float
    chosen: list[int]
    train_s: float
    rank_s: float


class Rounds:
    """The finished rounds, in a file whose first line says under what settings.

    A line that was cut in the middle is dropped: its round is played again. Raises ValueError where the file is of
    other settings.
    """

    def __init__(self, file: Path, settings: Mapping[str, object]) -> None:
        self._file = file
        self._known: dict[tuple[str, int], list[Round]] = {}
        whole = file.read_bytes().rpartition(b"\n")[0] if file.exists() else b""
        first, *lines = whole.decode().splitlines() or [json.dumps(dict(settings))]
        if json.loads(first) != settings:
            raise ValueError(f"{file} is of {first}, and this run of {json.dumps(dict(settings))}; name another file.")
        file.write_text("".join(f"{line}\n" for line in (first, *lines)))
        for line in lines:
            self._keep(Round(**json.loads(line)))

    def of(self, strategy: str, seed: int) -> Sequence[Round]:
        """In the order they were played."""
        return self._known.get((strategy, seed), [])

    def add(self, played: Round) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(played)) + "\n")
        self._keep(played)

    def curves(self, strategy: str, labels: int) -> list[Sequence[Round]]:
        """Of every seed that came to its end."""
        known = [rounds for (name, _), rounds in sorted(self._known.items()) if name == strategy]
        return [rounds for rounds in known if rounds[-1].labels >= labels]

    def _keep(self, played: Round) -> None:
        self._known.setdefault((played.strategy, played.seed), []).append(played)


def labels_to(rounds: Sequence[Round], accuracy: float) -> float:
    """The smallest training set that reached an accuracy; infinite where none did."""
    return next((float(one.labels) for one in rounds if one.accuracy >= accuracy), math.inf)
