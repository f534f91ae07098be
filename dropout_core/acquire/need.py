"""The requests of a selection algorithm to its driver."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Arrays = Mapping[str, Tensor]
SAMPLES, EMBEDDINGS = "samples", "embeddings"


def _all(arrays: Arrays) -> Arrays:
    return arrays


@dataclass(frozen=True)
class Need:
    """A request from the selection algorithm to its driver: some rows, and the arrays to compute for them.

    The driver runs the rows in chunks, applies `kept` to the arrays of each chunk, concatenates the results in the
    order of the rows, and sends them back.

    Attributes:
        of: Which set the rows belong to: "pool", "labelled" or "targets".
        rows: Row indices, int64 [n], ascending; None for all rows.
        measures: Names of measures of an Estimate.
        samples: Whether to include the passes, as SAMPLES, rows first: [b, T, C].
        embeddings: Whether to include the inputs of the last linear layer with the noise off, as EMBEDDINGS, [b, D].
        passes: Number of passes; None for the number in the pass options.
        kept: Reduces the arrays of a chunk, rows first, to what is held: a few numbers per row if the whole pool is
            run.
    """

    of: Literal["pool", "labelled", "targets"] = "pool"
    rows: Tensor | None = None
    measures: tuple[str, ...] = ()
    samples: bool = False
    embeddings: bool = False
    passes: int | None = None
    kept: Callable[[Arrays], Arrays] = _all

    @property
    def estimates(self) -> bool:
        """Whether the request needs passes."""
        return self.samples or bool(self.measures)


def concatenate_chunks(parts: Sequence[Arrays]) -> Arrays:
    """Concatenate the arrays of chunks along the rows.

    Args:
        parts: Arrays by name of each chunk, in order; at least one chunk.

    Returns:
        Arrays by name.
    """
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
