"""The commands that compute predictions: predict, bench."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import typer

from dropout_core.engine.options import DEFAULT_PASSES, PassOverrides, Sampling, Sharing
from dropout_core.errors import InvalidInput
from mcdrop.cli.options import Bundles, Device, Url, Version, client_of, common_settings, predictor_of

if TYPE_CHECKING:
    import numpy as np

    from mcdrop.client import Prediction

Name = Annotated[str, typer.Argument(help="Name of the model.")]
Passes = Annotated[
    int | None,
    typer.Option(help="Number of stochastic passes; with a tolerance, the most a row may take. Default: the bundle's."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the masks. Default: the bundle's.")]
SamplingOption = Annotated[
    Sampling | None, typer.Option(help="How passes draw: balanced has the smaller Monte Carlo error.")
]
Masks = Annotated[Sharing | None, typer.Option(help="Whether the rows of a pass share one mask.")]
Branches = Annotated[
    int | None, typer.Option(help="Number of passes that share the noise of all sites but the last: 1, 2, 4, 8 or 16.")
]
Tolerance = Annotated[float | None, typer.Option(help="Standard error of the mean at which a row stops taking passes.")]
MinPasses = Annotated[int | None, typer.Option(help="Fewest passes of a row when there is a tolerance.")]
File = Annotated[Path, typer.Argument(help="Rows as a .npy array, rows first; several inputs by name as .npz.")]
_UNREADABLE = (
    "predict reads .npy and .npz files. To convert a table of numbers: "
    "np.save('rows.npy', np.loadtxt('rows.csv', delimiter=',', skiprows=1, dtype='float32'))."
)


def predict(
    name: Name,
    file: File,
    out: Annotated[Path | None, typer.Option(help="Write every measure, and the run, to this .npz.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    outputs: Annotated[
        list[str] | None, typer.Option(help="A measure to compute; may be repeated. Default: all of the model's.")
    ] = None,
    quantiles: Annotated[
        list[float] | None, typer.Option(help="A quantile level between 0 and 1; may be repeated.")
    ] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Keep the prediction of every pass.")] = False,
    defer_above: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MEASURE=NUMBER", help="Mark rows whose measure exceeds this number for a human; may be repeated."
        ),
    ] = None,
    passes: Passes = None,
    seed: Seed = None,
    sampling: SamplingOption = None,
    masks: Masks = None,
    branches: Branches = None,
    tolerance: Tolerance = None,
    min_passes: MinPasses = None,
    version: Version = None,
    bundles: Bundles = None,
    device: Device = None,
    url: Url = None,
) -> None:
    """Predict the mean, variance and entropies of each row of a file.

    Example: `mcdrop predict digits rows.npy --out answer.npz`
    """
    from mcdrop.cli import console
    from mcdrop.wire.npy import write_npz

    rows = _rows(file)
    overrides = PassOverrides(
        passes=passes,
        seed=seed,
        sampling=sampling,
        masks=masks,
        branches=branches,
        tolerance=tolerance,
        min_passes=min_passes,
    )
    measures: dict[str, Any] = {
        "outputs": outputs or None,
        "quantiles": quantiles or [],
        "samples": samples,
        "defer_above": _thresholds(defer_above or []),
    }
    if url is not None:
        with client_of(url) as client:
            answer = client.predict(name, rows, version=version, **overrides, **_without_defaults(measures))
    else:
        answer = _predict_here(predictor_of(name, version, bundles, device), rows, overrides, measures)
    if out is not None:
        out.write_bytes(write_npz({**answer.outputs, **_deferred(answer), **answer.run.members}))
    if json:
        console.prediction_json(answer)
    elif out is None:
        console.prediction_table(answer)


def bench(
    name: Name,
    rows: Annotated[list[int], typer.Option(help="Number of rows to predict at once; may be repeated.")] = [1, 32, 256],  # noqa: B006 - typer copies it
    passes: Annotated[int, typer.Option(help="Number of stochastic passes.")] = DEFAULT_PASSES,
    version: Version = None,
    bundles: Bundles = None,
    device: Device = None,
) -> None:
    """Measure what a prediction costs on this machine. Says also how the engine chose to run it.

    Example: `mcdrop bench digits --rows 1 --rows 256`
    """
    from mcdrop.cli import console
    from mcdrop.cli.bench import bench as bench_rows
    from mcdrop_models.loading.tunings import tuning_cache_at

    predictor = predictor_of(name, version, bundles, device, tuning_cache_at(common_settings().tunings))
    if not rows or min(rows) < 1:
        raise InvalidInput(f"the rows are {rows}; give at least 1 row.")
    options = replace(predictor.manifest.pass_options, passes=passes)
    console.costs(predictor, [bench_rows(predictor, count, options) for count in rows], options)


def _predict_here(predictor: Any, rows: Any, overrides: PassOverrides, measures: Mapping[str, Any]) -> "Prediction":
    """Predict with a bundle in this process."""
    from mcdrop.api.v1.predict.response import provenance_of
    from mcdrop.client import Prediction
    from mcdrop.inference.inputs import to_inputs
    from mcdrop.inference.query import Query, RequestLimits
    from mcdrop.inference.result import run_query

    limits = RequestLimits(max_passes=2**31, max_samples=2**63, max_length=2**63)
    query = Query.of(
        predictor,
        to_inputs(rows, predictor.manifest),
        limits,
        overrides=overrides,
        **measures,
    )
    return Prediction.of(provenance_of(query), run_query(query))


def _without_defaults(measures: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the server does by default, so that the request stays short."""
    return {name: value for name, value in measures.items() if value}


def _deferred(answer: "Prediction") -> dict[str, Any]:
    return {} if answer.defer is None else {"defer": answer.defer}


def _thresholds(texts: Sequence[str]) -> dict[str, float]:
    """Read thresholds such as mutual_information=0.3."""
    found: dict[str, float] = {}
    for text in texts:
        measure, _, number = text.partition("=")
        try:
            found[measure] = float(number)
        except ValueError as error:
            raise InvalidInput(
                f"--defer-above is {text!r}; write a measure and a number, such as mutual_information=0.3."
            ) from error
    return found


def _rows(file: Path) -> "np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]]":
    import numpy as np

    if file.suffix.lower() in {".csv", ".parquet", ".txt", ".tsv"}:
        raise InvalidInput(f"{file} is a {file.suffix} file. {_UNREADABLE}")
    try:
        with file.open("rb") as stream:
            rows = np.load(stream, allow_pickle=False)
            return rows if isinstance(rows, np.ndarray) else dict(rows)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InvalidInput(f"{file} cannot be read as a .npy array: {error}.") from error
