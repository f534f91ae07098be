"""Loading a bundle by its name."""

from pathlib import Path

from mcdrop_models.bundle.repository import Repository
from mcdrop_models.loading.predictor import Predictor


def load(name: str, version: int | None = None, *, root: Path | str = "bundles", device: str = "cpu") -> Predictor:
    """Load a published bundle and verify it.

    Args:
        name: Name of the bundle.
        version: Version to load. By default the newest that can be loaded.
        root: Folder of bundles.
        device: Device that computes, such as "cpu" or "cuda:0".

    Returns:
        The bundle in memory, ready to estimate.

    Raises:
        UnknownModel: The folder has no such bundle or version.
        InvalidBundle: The bundle cannot be loaded; the message says why.
    """
    repository = Repository(root)
    if version is None:
        return Predictor.newest(repository, name, device)
    return Predictor.load(repository, name, version, device)
