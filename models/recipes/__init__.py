"""Reproducible training of the published examples, one file each."""

from collections.abc import Callable
from importlib import import_module
from typing import cast

from models.recipes.training import OnEpoch, Trained

RECIPES = ("digits", "diabetes")


def load_recipe(name: str) -> Callable[[OnEpoch], Trained]:
    """A recipe's `train`. Imported when wanted: recipes need scikit-learn, which serving does not."""
    return cast("Callable[[OnEpoch], Trained]", import_module(f"models.recipes.{name}").train)
