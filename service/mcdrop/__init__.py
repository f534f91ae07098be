"""Monte Carlo dropout in production: the public face.

    estimate = mcdrop.predict(model, x)            uncertainty of a live network
    ranking = mcdrop.rank(model, pool, k=10)       which rows to label next
    mcdrop.publish(model, x, name="mine", …)       a safe, versioned bundle
    predictor = mcdrop.load("mine")                a bundle in memory
    client = mcdrop.Client("http://…")             a server's answers as numpy arrays

Each name is imported when it is first used, so that `from mcdrop import Client` loads neither torch nor FastAPI.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropout_core import layers as layers
    from dropout_core.acquire.rank import rank as rank
    from dropout_core.predict import embed as embed
    from dropout_core.predict import predict as predict
    from mcdrop.client import AsyncClient as AsyncClient
    from mcdrop.client import Client as Client
    from mcdrop_models.loading.load import load as load
    from mcdrop_models.publishing.torch import publish as publish

    __version__: str

_HOMES = {
    "AsyncClient": "mcdrop.client",
    "Client": "mcdrop.client",
    "embed": "dropout_core.predict",
    "load": "mcdrop_models.loading.load",
    "predict": "dropout_core.predict",
    "publish": "mcdrop_models.publishing.torch",
    "rank": "dropout_core.acquire.rank",
}
__all__ = [
    "AsyncClient",
    "Client",
    "__version__",
    "embed",
    "layers",
    "load",
    "predict",
    "publish",
    "rank",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "layers":
        return import_module("dropout_core.layers")
    if name == "__version__":
        return import_module("importlib.metadata").version("mcdrop")
    raise AttributeError(f"module 'mcdrop' has no attribute {name!r}; its names are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted(__all__)
