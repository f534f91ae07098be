"""Reproducible training of the published examples, one file each."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from mcdrop_models.recipes.training import Labelled, OnEpoch, Trained

RECIPES = ("digits", "diabetes")
# of these the rows and their classes can be had
LABELLED = ("digits",)


def load_recipe(name: str) -> Callable[[OnEpoch], Trained]:
    """A recipe's `train`. Imported when wanted: recipes need scikit-learn, which serving does not."""
    return cast("Callable[[OnEpoch], Trained]", import_module(f"mcdrop_models.recipes.{name}").train)


def load_labelled(name: str) -> Labelled:
    """A recipe's data with its classes, one of LABELLED. Imported when wanted, as `load_recipe` does."""
    return cast("Callable[[], Labelled]", import_module(f"mcdrop_models.recipes.{name}").labelled)()
