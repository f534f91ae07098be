"""The commands that ask a model: predict, bench."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import typer

from dropout_core.engine.options import DEFAULT_PASSES, PassOverrides
from dropout_core.errors import InvalidInput
from mcdrop.api.v1.predict.response import provenance_of
from mcdrop.cli import console
from mcdrop.cli.bench import bench as bench_rows
from mcdrop.cli.options import Bundles, Device, Url, Version, bundles_folder, chosen_device, common_settings
from mcdrop.client import Client, Prediction
from mcdrop.inference.inputs import to_inputs
from mcdrop.inference.query import Query, RequestLimits
from mcdrop.inference.result import run_query
from mcdrop.wire.npy import write_npz
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor
from mcdrop_models.loading.tunings import TuningCache, tuning_cache_at

Passes = Annotated[
    int | None, typer.Option(help="Stochastic passes; the bundle's own number otherwise. The most with a tolerance.")
]
Seed = Annotated[int | None, typer.Option(help="Decides the masks; the bundle's own otherwise.")]
Tolerance = Annotated[
    float | None, typer.Option(help="Stop a row once the standard error of its every mean is at most this.")
]
MinPasses = Annotated[int | None, typer.Option(help="The fewest passes of a row that may stop early.")]
File = Annotated[Path, typer.Argument(help="Rows as a .npy array, rows first; several inputs by name as .npz.")]
Rows = np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]]
_UNBOUNDED = RequestLimits(max_passes=2**31, max_samples=2**63, max_length=2**63)


def predict(
    name: Annotated[str, typer.Argument(help="The model.")],
    file: File,
    out: Annotated[Path | None, typer.Option(help="Write every measure, and the run, to this .npz.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    passes: Passes = None,
    seed: Seed = None,
    tolerance: Tolerance = None,
    min_passes: MinPasses = None,
    version: Version = None,
    bundles: Bundles = None,
    device: Device = None,
    url: Url = None,
) -> None:
    """Predictive mean, variance and entropies of each row of a file.

    Example: `mcdrop predict digits rows.npy --out answer.npz`
    """
    rows = _rows(file)
    overrides = PassOverrides(passes=passes, seed=seed, tolerance=tolerance, min_passes=min_passes)
    if url is not None:
        with client_of(url) as client:
            answer = client.predict(name, rows, version=version, **overrides)
    else:
        query = _question(name, rows, version, overrides, bundles, device)
        answer = Prediction.of(provenance_of(query), run_query(query))
    if out is not None:
        out.write_bytes(write_npz({**answer.outputs, **answer.run.members}))
    if json:
        console.prediction_json(answer)
    elif out is None:
        console.prediction_table(answer)


def bench(
    name: Annotated[str, typer.Argument(help="The model.")],
    rows: Annotated[list[int], typer.Option(help="How many rows at once; may be given several times.")] = [1, 32, 256],  # noqa: B006 - typer copies it
    passes: Annotated[int, typer.Option(help="Stochastic passes.")] = DEFAULT_PASSES,
    version: Version = None,
    bundles: Bundles = None,
    device: Device = None,
) -> None:
    """What a prediction costs on this machine, and how the engine chose to run it.

    Example: `mcdrop bench digits --rows 1 --rows 256`
    """
    predictor = predictor_of(name, version, bundles, device, tuning_cache_at(common_settings().tunings))
    if not rows or min(rows) < 1:
        raise InvalidInput(f"the rows are {rows}; at least one is needed.")
    plan = replace(predictor.manifest.pass_options, passes=passes)
    console.costs(predictor, [bench_rows(predictor, count, plan) for count in rows], plan)


def client_of(url: str) -> Client:
    """A client with the key of the settings."""
    key = common_settings().api_key
    return Client(url, key.get_secret_value() if key is not None else None)


def predictor_of(
    name: str, version: int | None, bundles: Path | None, device: str | None = None, tunings: TuningCache | None = None
) -> Predictor:
    """A model of a folder: a version of it, or the newest that can be served."""
    repository, place = Repository(bundles_folder(bundles)), chosen_device(device)
    backends = common_settings().backends(place)
    if version is None:
        return Predictor.newest(repository, name, place, tunings, backends)
    return Predictor.load(repository, name, version, place, tunings, backends)


def _question(
    name: str, rows: Rows, version: int | None, overrides: PassOverrides, bundles: Path | None, device: str | None
) -> Query:
    """Return a query to a model of a folder."""
    predictor = predictor_of(name, version, bundles, device)
    return Query.of(predictor, to_inputs(rows, predictor.manifest), _UNBOUNDED, overrides=overrides)


def _rows(file: Path) -> Rows:
    try:
        with file.open("rb") as stream:
            rows = np.load(stream, allow_pickle=False)
            return rows if isinstance(rows, np.ndarray) else dict(rows)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InvalidInput(f"{file} cannot be read as a .npy array: {error}.") from error
