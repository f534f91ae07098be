"""The commands that describe models and layers: models, lint, variants."""

from typing import Annotated

import typer

from dropout_core.errors import InvalidInput
from mcdrop.cli import console
from mcdrop.cli.options import Bundles, Url, Version, bundles_folder, client_of, predictor_of


def models(bundles: Bundles = None, url: Url = None) -> None:
    """List every version of every model, and why one is refused.

    Example: `mcdrop models --bundles ./bundles`
    """
    if url is not None:
        with client_of(url) as client:
            console.print_models(client.models())
        return
    from mcdrop_models.bundle.repository import Repository

    entries = Repository(bundles_folder(bundles)).entries()
    console.print_models(
        [
            {
                "name": entry.name,
                "version": entry.version,
                "state": "refused" if entry.reason else "published",
                "reason": entry.reason,
            }
            for entry in entries
        ]
    )


def lint(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Version = None,
    bundles: Bundles = None,
) -> None:
    """Advise on where a published network drops. For each piece of advice: why, what instead, and the source.

    Exits with 1 if there is any advice.

    Example: `mcdrop lint digits`
    """
    from dropout_core.lint import lint_graph

    predictor = predictor_of(name, version, bundles)
    if predictor.program.graph.is_outline:
        raise InvalidInput(f"{name} was published from an ONNX file, but lint reads torch networks only.")
    findings = lint_graph(predictor.program.graph)
    console.findings(findings)
    raise typer.Exit(int(bool(findings)))


def variants() -> None:
    """List the dropout layers of the library. For each: what it drops, what for, what it costs, and its source.

    Example: `mcdrop variants`
    """
    from dropout_core.layers.variants import VARIANTS

    console.print_variants(VARIANTS)
