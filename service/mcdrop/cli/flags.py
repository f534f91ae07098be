"""Derives the flags of a command from its settings."""

import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

_METAVARS = {str: "TEXT", int: "INTEGER", Path: "PATH", tuple: "TEXT"}


def flagged(kind: type[BaseSettings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command one flag for each setting.

    Values stay texts: the settings alone validate them, with the same message wherever a value came from. A secret has
    no flag, since everyone on a machine can read the command lines of its processes.

    Args:
        kind: Class of the settings.

    Returns:
        A decorator of a command that takes `**flags`; a flag that was not given is None.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        flags = [_flag(name, field) for name, field in kind.model_fields.items() if not _is_secret(field)]
        cast("Any", command).__signature__ = inspect.Signature(flags)
        return command

    return give


def default_of(field: FieldInfo) -> str:
    """Return the default of a setting as a user would write it.

    Args:
        field: Field of the setting.

    Returns:
        The default; empty if there is none.
    """
    default = field.default
    if isinstance(default, bool):
        return str(default).lower()
    return ", ".join(default) if isinstance(default, tuple) else "" if default is None else str(default)


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    (kind,) = _kinds(field)
    default = default_of(field)
    text = f"{field.description} MCDROP_{name.upper()}{f', or {default}' if default else ''}."
    if kind is bool:
        annotation: Any = Annotated[bool | None, typer.Option(help=text)]
    elif get_origin(kind) is tuple:
        annotation = Annotated[list[str] | None, typer.Option(help=text, metavar=_metavar(kind))]
    else:
        annotation = Annotated[str | None, typer.Option(help=text, metavar=_metavar(kind))]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return _METAVARS[get_origin(kind) or kind]


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in _kinds(field)


def _kinds(field: FieldInfo) -> Iterator[Any]:
    """Return the types that a setting may have besides None."""
    kind = field.annotation
    members = get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)
    return (member for member in members if member is not types.NoneType)
