"""Options and settings that several commands read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from mcdrop.inference.device import resolve_device
from mcdrop.settings import CommonSettings, InvalidConfig

S = TypeVar("S", bound=CommonSettings)

Bundles = Annotated[Path | None, typer.Option(help="Folder of bundles; MCDROP_BUNDLES, or ./bundles.")]
Url = Annotated[str | None, typer.Option(help="Ask this server instead of reading a bundle.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; MCDROP_DEVICE, or auto.")]
Version = Annotated[int | None, typer.Option(help="A version; the newest otherwise.")]


def common_settings(**flags: Any) -> CommonSettings:
    """The settings of every command. flags: None for those not given. Raises InvalidConfig."""
    return read_settings(CommonSettings, flags)


def read_settings(kind: type[S], flags: Mapping[str, Any]) -> S:
    """The settings of a kind. flags: None for those not given. Raises InvalidConfig where one is wrong."""
    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        # without its cause, which shows what came: it may be a key
        raise InvalidConfig("; ".join(map(_reason, error.errors()))) from None


def _reason(item: Mapping[str, Any]) -> str:
    """Which setting is wrong, and why."""
    why = str(item["msg"]).removeprefix("Value error, ")
    return ": ".join([*map(str, item["loc"]), why])


def bundles_folder(given: Path | None) -> Path:
    """The folder of bundles that was given, or that of the settings."""
    return given if given is not None else common_settings().bundles


def chosen_device(given: str | None) -> str:
    """The device that was given, or that of the settings. Raises InvalidInput where there is none such."""
    return resolve_device(common_settings(device=given).device)
