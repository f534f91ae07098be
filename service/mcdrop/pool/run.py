"""Drive a choice over pools: answer its requests chunk by chunk, and store each chunk in the checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, prod
from typing import Protocol

import numpy as np
import torch

from dropout_core.acquire.choose import Choice, Ranking, drive
from dropout_core.acquire.need import Arrays, Need, concatenate_chunks
from dropout_core.errors import InvalidInput
from dropout_core.graph.inputs import NamedTensors
from mcdrop.pool.checkpoint import Checkpoint
from mcdrop.pool.readers.base import Pool, Rows
from mcdrop_models.bundle.manifest import InputSpec

# rows of a chunk, fewer where their passes are kept, and the bytes their inputs may have
_MOST_ROWS, _MOST_SAMPLED, MOST_BYTES = 4096, 256, 2**25
# of a free dimension, whose size only the rows say
_GUESSED_SIZE = 512
# of what is asked about: rows done, of how many
OnRows = Callable[[str, int, int], None]


class Answerer(Protocol):
    """Runs the model for the rows of a request."""

    @property
    def device(self) -> torch.device:
        """Device on which passes and embeddings are processed."""

    def arrays(self, need: Need, inputs: NamedTensors, rows: Rows) -> Arrays:
        """Compute the arrays that a request names.

        Args:
            need: The request.
            inputs: The rows, by input.
            rows: Their numbers in the pool.

        Returns:
            Arrays by name, rows first.
        """


@dataclass(frozen=True)
class Drive:
    """A model, the pools that a choice can ask about, and how many rows are run at once.

    checkpoint: None: nothing is kept. on_rows: is told how far it is.
    """

    answerer: Answerer
    pools: Mapping[str, Pool]
    at_once: int
    on_rows: OnRows
    checkpoint: Checkpoint | None = None

    def run(self, choice: Choice) -> Ranking:
        """Answer all requests of a choice.

        Args:
            choice: A choice that has not started.

        Returns:
            The ranking.
        """
        numbers = count()
        return drive(choice, lambda need: self._answer(need, next(numbers)))

    def _answer(self, need: Need, number: int) -> Arrays:
        found = concatenate_chunks(list(self._chunks(need, number)))
        if not (need.samples or need.embeddings):
            return found
        return {name: values.to(self.answerer.device) for name, values in found.items()}

    def _chunks(self, need: Need, number: int) -> Iterator[Arrays]:
        pool = self.pools[need.of]
        rows = np.arange(pool.num_rows) if need.rows is None else need.rows.numpy()
        size = _even(len(rows), min(self.at_once, _MOST_SAMPLED) if need.samples else self.at_once)
        known = self.checkpoint.of(number) if self.checkpoint else []
        yield from known
        done = min(len(known) * size, len(rows))
        self.on_rows(need.of, done, len(rows))
        for inputs in pool.parts(rows[done:], size):
            some = rows[done : done + size]
            arrays = {name: values.cpu() for name, values in need.kept(self._arrays(need, inputs, some)).items()}
            if self.checkpoint:
                self.checkpoint.add(number, arrays)
            done += len(some)
            self.on_rows(need.of, done, len(rows))
            yield arrays

    def _arrays(self, need: Need, inputs: NamedTensors, rows: Rows) -> Arrays:
        try:
            return self.answerer.arrays(need, inputs, rows)
        except InvalidInput as error:
            where = f"{self.pools[need.of].path}, of the rows {rows[0]} … {rows[-1]}"
            raise InvalidInput(f"{where}: {error}") from error


def rows_at_once(specs: Sequence[InputSpec], most_bytes: int = MOST_BYTES) -> int:
    """Return the default number of rows that are run at once.

    Args:
        specs: The inputs of the model.
        most_bytes: Limit of the memory of their rows.

    Returns:
        The number of rows.
    """
    each = sum(
        np.dtype(spec.dtype).itemsize * prod(size if isinstance(size, int) else _GUESSED_SIZE for size in spec.shape)
        for spec in specs
    )
    return max(1, min(_MOST_ROWS, most_bytes // max(1, each)))


def _even(total: int, most: int) -> int:
    """Return a chunk size that makes all chunks nearly equal, because rounding depends on the size of a chunk."""
    return ceil(total / max(1, ceil(total / most))) or 1
