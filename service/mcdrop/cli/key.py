"""The commands that manage keys: `mcdrop key new`, `list` and `revoke`."""

from pathlib import Path
from typing import Annotated

import typer

from dropout_core.errors import InvalidInput
from mcdrop.cli.options import common_settings
from mcdrop.security.keys import Scope, new_key, read_keys, revoke_key

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Make, list and revoke the keys that callers of a server send.",
)

KeysFile = Annotated[Path | None, typer.Option("--keys", help="File of hashed keys. Default: MCDROP_KEYS.")]
Name = Annotated[str, typer.Argument(help="Name of the key, such as that of its owner.")]


@app.command(short_help="Make a key, print it once, and keep its hash.")
def new(
    name: Name,
    scope: Annotated[Scope, typer.Option(help="predict, or admin, which may load and unload models too.")] = "predict",
    keys: KeysFile = None,
) -> None:
    """Make a key, print it once, and keep its hash. A running server accepts it within a second.

    Example: `mcdrop key new alice --scope predict --keys keys.json`
    """
    path = _file(keys)
    secret = new_key(path, name, scope)
    typer.echo(f"The key of {name}, scope {scope}. It is shown only once; {path} has its hash.", err=True)
    typer.echo(secret)


@app.command("list", short_help="List the keys of a file.")
def list_keys(keys: KeysFile = None) -> None:
    """List the keys of a file: name, scope and date, separated by tabs.

    Example: `mcdrop key list --keys keys.json`
    """
    for key in read_keys(_file(keys)):
        typer.echo(f"{key.name}\t{key.scope}\t{key.created:%Y-%m-%d}")


@app.command(short_help="Remove a key.")
def revoke(name: Name, keys: KeysFile = None) -> None:
    """Remove a key. A running server refuses it within a second.

    Example: `mcdrop key revoke alice --keys keys.json`
    """
    revoke_key(_file(keys), name)


def _file(given: Path | None) -> Path:
    path = given if given is not None else common_settings().keys
    if path is None:
        raise InvalidInput("there is no file of keys: name one with --keys FILE or with MCDROP_KEYS.")
    return path
