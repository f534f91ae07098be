"""Options and settings that several commands read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service import console
from service.compute import device_of
from service.settings import CommonSettings

Bundles = Annotated[Path | None, typer.Option(help="Folder of bundles; MCDROP_BUNDLES, or ./bundles.")]
Url = Annotated[str | None, typer.Option(help="Ask this server instead of reading a bundle.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N; MCDROP_DEVICE, or auto.")]
Version = Annotated[int | None, typer.Option(help="A version; the newest otherwise.")]


def common_settings(**flags: Any) -> CommonSettings:
    """The settings of every command. flags: None for those not given. Ends the command with 2 where one is wrong."""
    try:
        return CommonSettings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        console.fail("; ".join(map(reason, error.errors())))
        raise typer.Exit(2) from None


def reason(item: Mapping[str, Any]) -> str:
    """Which setting is wrong, and why."""
    why = str(item["msg"]).removeprefix("Value error, ")
    return ": ".join([*map(str, item["loc"]), why])


def bundles_folder(given: Path | None) -> Path:
    """The folder of bundles that was given, or that of the settings."""
    return given if given is not None else common_settings().bundles


def chosen_device(given: str | None) -> str:
    """The device that was given, or that of the settings. Raises InvalidInput where there is none such."""
    return device_of(common_settings(device=given).device)
