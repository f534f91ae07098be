"""The command `mcdrop`."""

import sys
from typing import Annotated, Any

import torch
import typer

from dropout_core.errors import InvalidInput, McdropError
from dropout_core.layers.variants import VARIANTS
from dropout_core.lint import lint_graph
from mcdrop.cli import console
from mcdrop.cli import key as key_commands
from mcdrop.cli import predict as asking
from mcdrop.cli import rank as ranking
from mcdrop.cli.add_dropout import add_dropout
from mcdrop.cli.export import export
from mcdrop.cli.flags import flagged
from mcdrop.cli.options import Bundles, Url, Version, bundles_folder, common_settings, read_settings
from mcdrop.cli.publish import publish
from mcdrop.cli.simulate import simulate
from mcdrop.inference.catalogue import Catalogue
from mcdrop.observability import logs
from mcdrop.server.app import create_app
from mcdrop.server.memory import leave_to_stay, share_heap
from mcdrop.server.run import run_server
from mcdrop.settings import InvalidConfig, Settings
from mcdrop_models.bundle.repository import Repository
from mcdrop_models.publishing.torch import publish as publish_model
from mcdrop_models.recipes import RECIPES, load_recipe

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def main() -> None:
    """Run the command; errors of ours and of files are one line, not a traceback. Wrong settings end it with 2."""
    try:
        app()
    except InvalidConfig as error:
        console.fail(str(error))
        sys.exit(2)
    except (McdropError, OSError) as error:
        console.fail(str(error))
        sys.exit(1)


@app.callback()
def common() -> None:
    """Monte Carlo dropout in production: train, publish, serve, predict, rank."""
    torch.set_num_threads(common_settings().threads)


@app.command()
@flagged(Settings)
def serve(**flags: Any) -> None:
    """Serve the bundles of a folder over HTTP. Every setting is a flag, a variable, or a line of the --config file.

    A flag wins over a variable, that over the file. The key of MCDROP_API_KEY is no flag: others could read it.

    Example: `mcdrop serve --bundles ./bundles --port 8000`
    """
    settings = read_settings(Settings, flags)
    logs.configure(settings)
    share_heap()

    def ready(catalogue: Catalogue) -> None:
        leave_to_stay()
        console.announce(settings, catalogue)

    run_server(create_app(settings, on_ready=ready), settings)


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
        root=bundles_folder(bundles),
        output_scaling=trained.output_scaling,
        metrics=trained.metrics,
    )
    console.published(published)


@app.command()
def models(bundles: Bundles = None, url: Url = None) -> None:
    """List every version of every model, and why one is refused.

    Example: `mcdrop models --bundles ./bundles`
    """
    if url is not None:
        with asking.client_of(url) as client:
            console.models(client.models())
        return
    entries = Repository(bundles_folder(bundles)).entries()
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
    predictor = asking.predictor_of(name, version, bundles)
    if predictor.program.graph.is_outline:
        raise InvalidInput(f"{name} came as an ONNX file; advice is given on networks of torch.")
    findings = lint_graph(predictor.program.graph)
    console.findings(findings)
    raise typer.Exit(int(bool(findings)))


@app.command()
def variants() -> None:
    """List the dropout layers there are: what each drops, what for, what it costs, and its source.

    Example: `mcdrop variants`
    """
    console.variants(VARIANTS)


app.add_typer(key_commands.app, name="key")
for command in (publish, asking.predict, ranking.rank, asking.bench, simulate, export, add_dropout):
    app.command()(command)
