"""The command that trains an example model."""

from typing import Annotated, Literal

import typer

from mcdrop.cli.options import Bundles, bundles_folder

Example = Literal["digits", "diabetes"]


def train(
    name: Annotated[Example, typer.Argument(help="The example.")],
    bundles: Bundles = None,
) -> None:
    """Train an example model on data that ships with scikit-learn, and publish it.

    Example: `mcdrop train digits`
    """
    from mcdrop.cli import console
    from mcdrop_models.publishing.torch import publish
    from mcdrop_models.recipes import load_recipe

    with console.epochs(f"training {name}") as on_epoch:
        trained = load_recipe(name)(on_epoch)
    published = publish(
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
