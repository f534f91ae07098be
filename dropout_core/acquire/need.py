"""What a choice wants to know next of some rows. Who asks a network, where and in which chunks, is not its business."""

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
    """Run these rows in chunks, apply `kept` to each chunk, and send the chunks concatenated, rows in order.

    of: the rows are of the pool, or are the labelled ones or the targets. rows: int64 [n], ascending; None: all.
    measures: of an Estimate, by name. samples: also its passes, as SAMPLES, rows first: [b, T, C]. embeddings: also the
    inputs of the last linear layer with the noise off, as EMBEDDINGS, [b, D]. passes: how many; None: as many as were
    asked for. kept: what of a chunk's arrays, rows first, is to be held: a few numbers a row where all of the pool is
    asked about.
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
        """Whether passes are needed at all."""
        return self.samples or bool(self.measures)


def concatenate_chunks(parts: Sequence[Arrays]) -> Arrays:
    """The arrays of several chunks, at least one, as one: rows in order."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
