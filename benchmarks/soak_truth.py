"""What a bundle answers when its engine is asked without a server."""

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from serving_nets import NETS
from wire import Rows, rows_of

from dropout_core.errors import McdropError
from mcdrop.inference.query import Query, model_measures
from mcdrop.inference.result import run_query
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor

POOL = 512
# Of the output's scale: what is promised whatever else is in a batch.
_TOLERANCE = 1e-5
Measures = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Question:
    """Rows start … start + rows − 1 of the pool to a model. version: None for the current one."""

    model: str
    start: int
    rows: int
    passes: int
    seed: int
    version: int | None = None

    @property
    def x(self) -> Rows:
        return _pool()[self.start : self.start + self.rows]


def _pool() -> Rows:
    return rows_of(NETS["digits"].shape, POOL)


# Of the rows, how many may hold such a tie.
_TURNED = 0.01


class Truth:
    """Answers, computed once for each version and question. Safe for many threads."""

    def __init__(self, bundles: Path) -> None:
        self._repository, self._lock = Repository(bundles), threading.Lock()
        self._predictors: dict[tuple[str, int], Predictor] = {}
        self._answers: dict[tuple[Question, int], Measures] = {}

    def of(self, asked: Question, version: int) -> Measures:
        """The measures by name."""
        with self._lock:
            if (asked, version) not in self._answers:
                self._answers[asked, version] = self._computed(asked, version)
            return self._answers[asked, version]

    def differs(self, asked: Question, version: int, found: Measures) -> str:
        """The measure that is not what the engine answers; empty where all are."""
        try:
            wanted = self.of(asked, version)
        except McdropError as error:
            return f"nothing, for version {version} cannot be served ({error})"
        if not found:
            return "there are no measures"
        return next((name for name, values in found.items() if not _agree(name, values, wanted.get(name), asked)), "")

    def _computed(self, asked: Question, version: int) -> Measures:
        key = asked.model, version
        if key not in self._predictors:
            self._predictors[key] = Predictor.load(self._repository, *key)
        predictor = self._predictors[key]
        manifest = predictor.manifest
        plan, inputs = (
            replace(manifest.pass_options, passes=asked.passes, seed=asked.seed),
            {manifest.inputs[0].name: torch.from_numpy(asked.x)},
        )
        measures = (*model_measures(predictor), "passes_used")
        return dict(run_query(Query(predictor, inputs, asked.rows, plan, measures)))


def _agree(name: str, found: NDArray[np.float64], wanted: NDArray[np.float64] | None, asked: Question) -> bool:
    if wanted is None or found.shape != wanted.shape:
        return False
    off = np.abs(found - wanted)
    if name == "vote_variation_ratio":  # two classes that tie to the last digit: their vote turns with the batch
        turned = off > _TOLERANCE
        return bool(off.max() <= 1 / asked.passes + _TOLERANCE and turned.mean() <= _TURNED)
    return bool(off.max() <= _TOLERANCE * max(np.abs(wanted).max(), 1e-3))
