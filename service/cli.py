"""The command `mcdrop`."""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import torch
import typer
import uvicorn
from pydantic import ValidationError

from dropout_core.errors import InvalidInput, McdropError
from dropout_core.layers.variants import VARIANTS
from dropout_core.lint import lint_graph
from models.predictor import Predictor
from models.publish import publish as publish_model
from models.recipes import RECIPES, load_recipe
from models.repository import Repository
from service import console
from service.app import create_app
from service.catalogue import Catalogue
from service.client import Client, Prediction, RankedRows
from service.codec import array_to_rows
from service.local import load_factory, publish_factory
from service.query import Limits, Query, make_query, run_predict, run_rank
from service.settings import CommonSettings, Settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")

Bundles = Annotated[Path | None, typer.Option(help="Folder of bundles; MCDROP_BUNDLES, or ./bundles.")]
Url = Annotated[str | None, typer.Option(help="Ask this server instead of reading a bundle.")]
Version = Annotated[int | None, typer.Option(help="A version; the newest otherwise.")]
Passes = Annotated[int | None, typer.Option(help="Stochastic passes; the bundle's own number otherwise.")]
Seed = Annotated[int | None, typer.Option(help="Decides the masks; the bundle's own otherwise.")]
File = Annotated[Path, typer.Argument(help="Rows as a .npy array, rows first.")]
_UNBOUNDED = Limits(max_passes=2**31, max_samples=2**63)
# docker kills ten seconds after it asked
_GRACE_S = 5


def main() -> None:
    """Run the command; errors of ours and of files are one line, not a traceback."""
    try:
        app()
    except (McdropError, OSError) as error:
        console.fail(str(error))
        sys.exit(1)


@app.callback()
def common() -> None:
    """Monte Carlo dropout in production: train, publish, serve, predict, rank."""
    torch.set_num_threads(_settings().threads)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address; MCDROP_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; MCDROP_PORT, or 8000.")] = None,
    bundles: Bundles = None,
    threads: Annotated[int | None, typer.Option(help="Threads one operator may use; MCDROP_THREADS, or 1.")] = None,
) -> None:
    """Serve the bundles of a folder over HTTP.

    Example: `mcdrop serve --bundles ./bundles --port 8000`
    """
    flags: dict[str, Any] = {"host": host, "port": port, "bundles": bundles, "threads": threads}
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        console.fail("; ".join(map(_reason, error.errors())))
        raise typer.Exit(2) from None
    server = create_app(settings, on_ready=lambda catalogue: console.announce(settings, catalogue))
    signal.signal(signal.SIGTERM, _end)
    uvicorn.run(server, host=settings.host, port=settings.port, timeout_graceful_shutdown=_GRACE_S)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="digits or diabetes.")],
    bundles: Bundles = None,
) -> None:
    """Train an example model on data that ships with scikit-learn, and publish it.

    Example: `mcdrop train digits`
    """
    if name not in RECIPES:
        raise InvalidInput(f"there is no example {name!r}; there are {', '.join(RECIPES)}.")
    with console.epochs(f"training {name}") as on_epoch:
        trained = load_recipe(name)(on_epoch)
    published = publish_model(
        trained.model,
        trained.example,
        name=name,
        task=trained.task,
        output=trained.output,
        labels=trained.labels,
        root=_folder(bundles),
        output_scaling=trained.output_scaling,
        metrics=trained.metrics,
    )
    console.published(published)


@app.command()
def publish(
    factory: Annotated[
        str, typer.Argument(help="package.module:factory, called without arguments; imported from here.")
    ],
    name: Annotated[str, typer.Option(help="The name to publish under.")],
    task: Annotated[str, typer.Option(help="classification or regression.")],
    example_shape: Annotated[str, typer.Option(help="Shape of one row, such as 1,28,28.")],
    weights: Annotated[Path | None, typer.Option(help="The trained weights, .safetensors.")] = None,
    output: Annotated[str | None, typer.Option(help="logits, probabilities, mean or mean_and_log_variance.")] = None,
    labels: Annotated[str | None, typer.Option(help="Names of the classes, with commas between.")] = None,
    bundles: Bundles = None,
) -> None:
    """Publish your own network: captured here, checked, and served without your code.

    Example: `mcdrop publish net:make --weights net.safetensors --example-shape 28,28 --name net --task classification`
    """
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # what torch.export logs at length it also raises
    network = load_factory(factory, weights)
    console.published(publish_factory(network, name, task, output, example_shape, labels, _folder(bundles)))


@app.command()
def models(bundles: Bundles = None, url: Url = None) -> None:
    """List every version of every model, and why one is refused.

    Example: `mcdrop models --bundles ./bundles`
    """
    if url is not None:
        with _client(url) as client:
            console.models(client.models())
        return
    entries = Repository(_folder(bundles)).entries()
    console.models(
        [
            {
                "name": e.name,
                "version": e.version,
                "state": "refused" if e.reason else "published",
                "reason": e.reason,
            }
            for e in entries
        ]
    )


@app.command()
def lint(
    name: Annotated[str, typer.Argument(help="The model.")],
    version: Version = None,
    bundles: Bundles = None,
) -> None:
    """Advice on where a published network drops: why, what instead, and the source. Exits with 1 when there is any.

    Example: `mcdrop lint digits`
    """
    predictor = Catalogue(Repository(_folder(bundles))).get(name, version)
    findings = lint_graph(predictor.program.graph)
    console.findings(findings)
    raise typer.Exit(int(bool(findings)))


@app.command()
def variants() -> None:
    """List the dropout layers there are: what each drops, what for, what it costs, and its source.

    Example: `mcdrop variants`
    """
    console.variants(VARIANTS)


@app.command()
def predict(
    name: Annotated[str, typer.Argument(help="The model.")],
    file: File,
    out: Annotated[Path | None, typer.Option(help="Write every measure to this .npz.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    passes: Passes = None,
    seed: Seed = None,
    version: Version = None,
    bundles: Bundles = None,
    url: Url = None,
) -> None:
    """Predictive mean, variance and entropies of each row of a file.

    Example: `mcdrop predict digits rows.npy --out answer.npz`
    """
    rows = _rows(file)
    if url is not None:
        with _client(url) as client:
            answer = client.predict(name, rows, version=version, passes=passes, seed=seed)
    else:
        predictor, query = _question(name, rows, version, passes, seed, bundles)
        outputs, labels = run_predict(predictor, query), predictor.manifest.labels
        answer = Prediction(name, predictor.version, query.passes, query.seed, outputs, labels, None)
    if out is not None:
        np.savez(out, **{key: np.asarray(value) for key, value in answer.outputs.items()}, allow_pickle=False)
    if json:
        console.prediction_json(answer)
    elif out is None:
        console.prediction_table(answer)


@app.command()
def rank(
    name: Annotated[str, typer.Argument(help="The model.")],
    file: File,
    k: Annotated[int, typer.Option("-k", help="How many rows.")] = 10,
    score: Annotated[
        str | None, typer.Option(help="mutual_information, predictive_entropy, margin, variance or random.")
    ] = None,
    passes: Passes = None,
    seed: Seed = None,
    version: Version = None,
    bundles: Bundles = None,
    url: Url = None,
) -> None:
    """Which rows of a pool should a human label next? Best first.

    Example: `mcdrop rank digits pool.npy -k 10`
    """
    rows = _rows(file)
    if url is not None:
        with _client(url) as client:
            console.ranking(client.rank(name, rows, k=k, score=score, version=version, passes=passes, seed=seed))
        return
    predictor, query = _question(name, rows, version, passes, seed, bundles)
    chosen, found = run_rank(predictor, query, score, k)
    console.ranking(RankedRows(name, predictor.version, chosen, found.indices.numpy(), found.scores.numpy(), None))


def _end(*_: object) -> None:
    """The end of a server that was told to stop: uvicorn sends itself the signal again when its own work is done.

    What still computes has nobody left who waits for it, so it is not waited for.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _reason(item: Mapping[str, Any]) -> str:
    """Which setting is wrong, and why."""
    reason = str(item["msg"]).removeprefix("Value error, ")
    return ": ".join([*map(str, item["loc"]), reason])


def _question(
    name: str,
    rows: "np.ndarray[Any, Any]",
    version: int | None,
    passes: int | None,
    seed: int | None,
    bundles: Path | None,
) -> tuple[Predictor, Query]:
    """A model of a folder, and what is asked of it."""
    predictor = Catalogue(Repository(_folder(bundles))).get(name, version)
    x = array_to_rows(rows, predictor.manifest.inputs[0])
    return predictor, make_query(predictor, x, _UNBOUNDED, passes=passes, seed=seed)


def _rows(file: Path) -> "np.ndarray[Any, Any]":
    try:
        with file.open("rb") as stream:
            rows = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InvalidInput(f"{file} cannot be read as a .npy array: {error}.") from error
    if not isinstance(rows, np.ndarray):
        raise InvalidInput(f"{file} holds several arrays; save the rows alone with numpy.save.")
    return rows


def _settings() -> CommonSettings:
    try:
        return CommonSettings()
    except ValidationError as error:
        console.fail("; ".join(map(_reason, error.errors())))
        raise typer.Exit(2) from None


def _folder(bundles: Path | None) -> Path:
    return bundles if bundles is not None else _settings().bundles


def _client(url: str) -> Client:
    key = _settings().api_key
    return Client(url, key.get_secret_value() if key is not None else None)
