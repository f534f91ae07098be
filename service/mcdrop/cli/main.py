"""The command `mcdrop`."""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dropout_core.errors import McdropError
from mcdrop.cli.lazy import lazy_commands

# The summaries are the first sentences of the commands' own help; a test compares them.
COMMANDS = {
    "serve": ("mcdrop.cli.serve:serve", "Serve the bundles of a folder over HTTP."),
    "train": ("mcdrop.cli.train:train", "Train an example model on data that ships with scikit-learn, and publish it."),
    "publish": ("mcdrop.cli.publish:publish", "Publish your own network, from code or an ONNX file."),
    "models": ("mcdrop.cli.models:models", "List every version of every model, and why one is refused."),
    "lint": ("mcdrop.cli.models:lint", "Advise on where a published network drops."),
    "variants": ("mcdrop.cli.models:variants", "List the dropout layers of the library."),
    "predict": ("mcdrop.cli.predict:predict", "Predict the mean, variance and entropies of each row of a file."),
    "rank": ("mcdrop.cli.rank:rank", "Which rows of a pool should a human label next?"),
    "bench": ("mcdrop.cli.predict:bench", "Measure what a prediction costs on this machine."),
    "simulate": (
        "mcdrop.cli.simulate:simulate",
        "Play active learning through with known labels: how many of them each strategy needs.",
    ),
    "export": (
        "mcdrop.cli.export:export",
        "Export a model and its passes as one ONNX file that takes rows and returns mean, variance and entropies.",
    ),
    "add-dropout": (
        "mcdrop.cli.add_dropout:add_dropout",
        "Insert dropout into a network that was trained without it, so that it can be published.",
    ),
    "key": ("mcdrop.cli.key:app", "Make, list and revoke the keys that callers of a server send."),
}


class _Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": lazy_commands(COMMANDS)})

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands in the order of the help.

        Args:
            ctx: Context of the group.

        Returns:
            Names of commands.
        """
        return list(COMMANDS)


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    """Run the command. An error of mcdrop or of a file is one line and exit code 1; a wrong setting exits with 2."""
    try:
        app()
    except (McdropError, OSError) as error:
        from mcdrop.cli.console import fail
        from mcdrop.settings import InvalidConfig

        fail(str(error))
        sys.exit(2 if isinstance(error, InvalidConfig) else 1)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"mcdrop {version('mcdrop')}")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Monte Carlo dropout in production: train, publish, serve, predict, rank."""
