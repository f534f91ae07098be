"""Options that several commands share, and what they stand for: settings, a model in memory, a client."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from mcdrop.client import Client
    from mcdrop.settings import CommonSettings
    from mcdrop_models.loading.predictor import Predictor
    from mcdrop_models.loading.tunings import TuningCache

S = TypeVar("S", bound="CommonSettings")

Bundles = Annotated[Path | None, typer.Option(help="Folder of bundles. Default: MCDROP_BUNDLES, or ./bundles.")]
Url = Annotated[str | None, typer.Option(help="Send the request to this server instead of reading a bundle.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N. Default: MCDROP_DEVICE, or auto.")]
Version = Annotated[int | None, typer.Option(help="Version of the model. Default: the newest.")]


def common_settings(**flags: Any) -> "CommonSettings":
    """Return the settings that every command reads.

    Args:
        **flags: Values of flags; None for a flag that was not given.

    Returns:
        The settings.

    Raises:
        InvalidConfig: A setting is wrong.
    """
    from mcdrop.settings import CommonSettings

    return read_settings(CommonSettings, flags)


def read_settings(kind: type[S], flags: Mapping[str, Any]) -> S:
    """Return settings from flags, the environment and the settings file.

    Args:
        kind: Class of the settings.
        flags: Values of flags; None for a flag that was not given.

    Returns:
        The settings.

    Raises:
        InvalidConfig: A setting is wrong.
    """
    from pydantic import ValidationError

    from mcdrop.settings import InvalidConfig

    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        # without its cause, which shows what came: it may be a key
        raise InvalidConfig("; ".join(map(_reason, error.errors()))) from None


def _reason(item: Mapping[str, Any]) -> str:
    """Return which setting is wrong, and why."""
    why = str(item["msg"]).removeprefix("Value error, ")
    return ": ".join([*map(str, item["loc"]), why])


def limit_threads() -> None:
    """Let torch use as many threads for one operator as the settings say.

    Raises:
        InvalidConfig: A setting is wrong.
    """
    threads = common_settings().threads
    import torch

    torch.set_num_threads(threads)


def bundles_folder(given: Path | None) -> Path:
    """Return the folder of bundles.

    Args:
        given: Value of the flag.

    Returns:
        The flag, or else the setting.
    """
    return given if given is not None else common_settings().bundles


def chosen_device(given: str | None) -> str:
    """Return the device that computes.

    Args:
        given: Value of the flag; None for the setting.

    Returns:
        "cpu" or "cuda:N".

    Raises:
        InvalidInput: This machine has no such device.
    """
    from mcdrop.inference.device import resolve_device

    return resolve_device(common_settings(device=given).device)


def client_of(url: str) -> "Client":
    """Return a client that sends the key of the settings.

    Args:
        url: URL of the server.

    Returns:
        The client.
    """
    from mcdrop.client import Client

    key = common_settings().api_key
    return Client(url, key.get_secret_value() if key is not None else None)


def predictor_of(
    name: str,
    version: int | None,
    bundles: Path | None,
    device: str | None = None,
    tunings: "TuningCache | None" = None,
) -> "Predictor":
    """Load a model from the folder of bundles.

    Args:
        name: Name of the model.
        version: Version; None for the newest that can be loaded.
        bundles: Value of the flag --bundles.
        device: Value of the flag --device.
        tunings: Cache of measured choices; None to measure nothing.

    Returns:
        The predictor.
    """
    from mcdrop_models.bundle.repository import Repository
    from mcdrop_models.loading.predictor import Predictor

    repository, place = Repository(bundles_folder(bundles)), chosen_device(device)
    backends = common_settings().backends(place)
    if version is None:
        return Predictor.newest(repository, name, place, tunings, backends)
    return Predictor.load(repository, name, version, place, tunings, backends)
