"""The ranking of a pool: its files, its model, and its checkpoint."""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dropout_core.acquire import choose
from dropout_core.acquire.options import PREDICTED, RankOptions
from dropout_core.errors import InvalidInput
from mcdrop.client import Client
from mcdrop.client.requests import Inputs
from mcdrop.pool.checkpoint import Checkpoint
from mcdrop.pool.model import PoolModel
from mcdrop.pool.output import Ranked, ranked_from_response
from mcdrop.pool.readers.base import Pool
from mcdrop.pool.readers.columns import SpecialColumns
from mcdrop.pool.readers.open import open_pool
from mcdrop.pool.run import Drive, OnRows, rows_at_once
from mcdrop.pool.side_files import costs_of, excluded_rows, groups_of

# of one request, well below what servers take unless they are told otherwise
_MOST_SENT = 2**23


_NONE = SpecialColumns()


@dataclass(frozen=True)
class Files:
    """The files of a ranking.

    Attributes:
        pool: The pool.
        labelled: Labelled rows, or None.
        targets: Target rows, or None.
        exclude: Rows to exclude, or None.
        costs: Label costs, or None.
        groups: A file of groups, "predicted_class", or None.
        apart: The columns that hold ids and costs.
        pixel_scale: Factor of pixel values 0 … 255, for a folder of images.
    """

    pool: Path
    labelled: Path | None = None
    targets: Path | None = None
    exclude: Path | None = None
    costs: Path | None = None
    groups: str | None = None
    apart: SpecialColumns = _NONE
    pixel_scale: float | None = None


@dataclass(frozen=True)
class RankJob:
    """A model, the files, and the options of the ranking.

    Attributes:
        model: The model.
        files: The files.
        parameters: Fields of RankOptions by name; None for those that were not given.
        at_once: Number of rows that are run, or sent, at once; chosen from the inputs by default.
        client: Client of the server of the model, or None.
    """

    model: PoolModel
    files: Files
    parameters: Mapping[str, Any]
    at_once: int | None = None
    client: Client | None = None

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """The sets of rows that a choice can request."""
        specs, scale = self.model.specs, self.files.pixel_scale
        pools = {"pool": open_pool(self.files.pool, specs, self.files.apart, scale)}
        for of, path in (("labelled", self.files.labelled), ("targets", self.files.targets)):
            if path is not None:
                besides = SpecialColumns(besides=self.files.apart.names)
                pools[of] = open_pool(path, specs, besides, scale if path.is_dir() else None)
        return pools

    @cached_property
    def asked(self) -> RankOptions:
        """The question to the core. Raises what it refuses."""
        pool, files = self.pools["pool"], self.files
        groups = files.groups
        return RankOptions(
            output=self.model.output,
            num_rows=pool.num_rows,
            seed=self.model.options.seed,
            exclude=() if files.exclude is None else excluded_rows(files.exclude, pool),
            costs=costs_of(files.costs, pool),
            groups=groups if groups is None or groups == PREDICTED else groups_of(Path(groups), pool),
            num_labelled=self._count("labelled"),
            num_targets=self._count("targets"),
            masks=self.model.options.masks,
            **self.parameters,
        )

    @property
    def size(self) -> int:
        """Number of rows that are run, or sent, at once."""
        if self.at_once is not None and self.at_once < 1:
            raise InvalidInput(f"{self.at_once} rows at once; at least 1 is wanted.")
        usual = rows_at_once(self.model.specs) if self.client is None else rows_at_once(self.model.specs, _MOST_SENT)
        return usual if self.at_once is None else self.at_once

    @property
    def told(self) -> dict[str, str]:
        """What decides the answer, each by its name."""
        files, asked = self.files, self.asked
        beside = {"the excluded rows": asked.exclude, "the costs": asked.costs, "the groups": asked.groups}
        return {
            **{f"the rows of {of}": pool.stamp for of, pool in self.pools.items()},
            **{name: _digest(value) for name, value in beside.items()},
            "the columns, or the pixels,": repr((files.apart, files.pixel_scale)),
            "the bundle": self.model.digest,
            "the passes": repr(self.model.options),
            "score, selector or their parameters": repr(sorted(self.parameters.items())),
            "the number of rows at once": str(self.size),
            "who answers": "a bundle" if self.client is None else "a server",
        }

    def answer(self, out: Path | None, on_rows: OnRows, *, resume: bool) -> Ranked:
        """Rank the pool.

        Args:
            out: The file of the picks. The checkpoint lies beside it until the caller has written it.
            on_rows: Receives the progress.
            resume: Whether to continue an unfinished run.

        Returns:
            The picks.
        """
        ids = self.pools["pool"].ids
        if self.client is not None and sum(pool.num_rows for pool in self.pools.values()) <= self.size:
            return self._at_once(self.client, resume=resume)
        with nullcontext() if out is None else Checkpoint(checkpoint_of(out), self.told, resume=resume) as kept:
            drive = Drive(self.model.answerer, self.pools, self.size, on_rows, kept)
            return Ranked.of(drive.run(choose(self.asked)), self.model.run, ids)

    def _at_once(self, client: Client, *, resume: bool) -> Ranked:
        """Return the picks of a server that receives all rows in one request."""
        if resume:
            raise InvalidInput("a pool that is sent to a server in one request is not resumed; leave --resume out.")
        rows = {of: _whole(pool) for of, pool in self.pools.items()}
        asked, ids = self.asked, self.pools["pool"].ids
        more = {"exclude": asked.exclude or None, "costs": asked.costs, "groups": asked.groups}
        given = {name: value for name, value in {**self.parameters, **more}.items() if value is not None}
        said = {**given, **{of: rows[of] for of in rows if of != "pool"}}
        plan = self.model.options
        answer = client.rank(
            self.model.name,
            rows["pool"],
            version=self.model.version,
            passes=plan.passes,
            seed=plan.seed,
            masks=plan.masks,
            **said,
        )
        return ranked_from_response(answer, self.model.run, ids)

    def _count(self, of: str) -> int:
        return self.pools[of].num_rows if of in self.pools else 0


def checkpoint_of(out: Path) -> Path:
    """Return the path of the checkpoint that belongs to an output file.

    Args:
        out: The file of the picks.

    Returns:
        The path.
    """
    return out.with_name(f"{out.name}.partial")


def _whole(pool: Pool) -> Inputs:
    """Return all rows in the form that a client sends."""
    rows = next(pool.parts(np.arange(pool.num_rows), pool.num_rows))
    arrays = {name: values.numpy() for name, values in rows.items()}
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _digest(value: Any) -> str:
    numbers = value.numpy().tolist() if hasattr(value, "numpy") else value
    return hashlib.sha256(repr(numbers).encode()).hexdigest()
