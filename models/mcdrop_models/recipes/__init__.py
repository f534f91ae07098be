"""Reproducible training of the published examples, one file each."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from mcdrop_models.recipes.training import Labelled, OnEpoch, Trained

RECIPES = ("digits", "diabetes")
# of these the rows and their classes can be had
LABELLED = ("digits",)


def load_recipe(name: str) -> Callable[[OnEpoch], Trained]:
    """Import the `train` function of a recipe. It is imported late: recipes need scikit-learn, which serving does not.

    Args:
        name: Name of the recipe.

    Returns:
        The training function.
    """
    return cast("Callable[[OnEpoch], Trained]", import_module(f"mcdrop_models.recipes.{name}").train)


def load_labelled(name: str) -> Labelled:
    """Load the labelled data of a recipe, imported late as in `load_recipe`.

    Args:
        name: One of LABELLED.

    Returns:
        The data and its classes.
    """
    return cast("Callable[[], Labelled]", import_module(f"mcdrop_models.recipes.{name}").labelled)()
