"""The chosen rows, and the files they are written to."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dropout_core.acquire.choose import Ranking
from dropout_core.errors import InvalidInput
from mcdrop.client import RankedRows
from mcdrop.pool.readers.base import Array, Ids
from mcdrop.pool.readers.columns import extra
from mcdrop.wire.npy import write_npz
from mcdrop_models.bundle.atomic import replace_file


@dataclass(frozen=True)
class Ranked:
    """The chosen rows in the order of the picks, and the run that chose them.

    Attributes:
        run: Fields by name that reproduce the choice.
        score: The exact name of the score; None if the selector does not use one.
        indices: Row indices in the pool, [k].
        ids: Ids of the chosen rows; None if the pool does not have ids.
        scores: Scores, [k]; None without a score.
        parts: Measures of the chosen rows by name, [k].
        saturated: Whether later picks are noise.
    """

    run: Mapping[str, Any]
    score: str | None
    indices: Array
    ids: Ids | None
    scores: Array | None
    parts: Mapping[str, Array]
    saturated: bool

    @staticmethod
    def of(ranking: Ranking, run: Mapping[str, Any], ids: Ids | None) -> "Ranked":
        """Combine a ranking with the ids of the pool.

        Args:
            ranking: The ranking.
            run: Fields by name that reproduce the choice.
            ids: Ids of all rows of the pool, or None.

        Returns:
            The chosen rows.
        """
        chosen = ranking.indices.tolist()
        more = {"considered": ranking.considered, "reduction": ranking.reduction, "saturated": ranking.saturated}
        return Ranked(
            run={**run, "score": ranking.score, **more},
            score=ranking.score,
            indices=ranking.indices.numpy(),
            ids=None if ids is None else [ids[row] for row in chosen],
            scores=None if ranking.scores is None else ranking.scores.numpy(),
            parts={name: values.numpy() for name, values in ranking.parts.items()},
            saturated=ranking.saturated,
        )

    @property
    def columns(self) -> dict[str, list[Any]]:
        """Return one value per pick, by column name."""
        count = len(self.indices)
        table: dict[str, list[Any]] = {"pick": list(range(1, count + 1)), "index": self.indices.tolist()}
        if self.ids is not None:
            table["id"] = list(self.ids)
        if self.scores is not None:
            table["score"] = self.scores.tolist()
        return table | {name: values.tolist() for name, values in self.parts.items()}


def check_suffix(path: Path) -> None:
    """Check, before anything runs, that the picks can be written to a path.

    Args:
        path: The file of the picks.

    Raises:
        InvalidInput: The suffix is not supported, or the folder does not exist.
    """
    if path.suffix not in _WRITTEN:
        raise InvalidInput(f"{path} ends in {path.suffix or 'nothing'}; {', '.join(_WRITTEN)} are written.")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: there is no folder {path.parent}; make it.")
    if path.suffix == ".parquet":
        extra("pyarrow.parquet", path)


def write(path: Path, ranked: Ranked) -> None:
    """Write the picks atomically: the file is complete, or as it was before.

    Args:
        path: The file of the picks.
        ranked: The picks.
    """
    replace_file(path, _WRITTEN[path.suffix](ranked, path))


def _csv(ranked: Ranked, _: Path) -> bytes:
    text, columns = io.StringIO(), ranked.columns
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _rows(ranked: Ranked) -> list[dict[str, Any]]:
    columns = ranked.columns
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _json(ranked: Ranked, _: Path) -> bytes:
    return orjson.dumps({**ranked.run, "rows": _rows(ranked)}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _jsonl(ranked: Ranked, _: Path) -> bytes:
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in _rows(ranked))


def _npz(ranked: Ranked, _: Path) -> bytes:
    ids = {} if ranked.ids is None else {"ids": np.asarray(ranked.ids)}
    scores = {} if ranked.scores is None else {"scores": ranked.scores}
    run = {name: value for name, value in ranked.run.items() if value is not None}
    return write_npz({"indices": ranked.indices, **ids, **scores, **ranked.parts, **run})


def _parquet(ranked: Ranked, path: Path) -> bytes:
    arrow, parquet = extra("pyarrow", path), extra("pyarrow.parquet", path)
    table = arrow.table(ranked.columns).replace_schema_metadata({"mcdrop": orjson.dumps(ranked.run)})
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


_WRITTEN: Mapping[str, Callable[[Ranked, Path], bytes]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".npz": _npz,
}


def ranked_from_response(answer: RankedRows, run: Mapping[str, Any], ids: Ids | None) -> Ranked:
    """Convert the response of a server.

    Args:
        answer: The response.
        run: Fields by name that reproduce the choice.
        ids: Ids of all rows of the pool, or None.

    Returns:
        The chosen rows.
    """
    more = {"considered": answer.considered, "reduction": answer.reduction, "saturated": bool(answer.saturated)}
    return Ranked(
        run={**run, "score": answer.score, **more},
        score=answer.score,
        indices=answer.indices,
        ids=None if ids is None else [ids[row] for row in answer.indices.tolist()],
        scores=answer.scores,
        parts=answer.parts,
        saturated=bool(answer.saturated),
    )
