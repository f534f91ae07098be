"""The flags of a command, made from the fields of its settings."""

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
    """Give a command that takes **flags one flag for each setting of a kind; what was not given is None.

    Values stay texts: the settings alone say what fits, in one line, wherever a value came from. A secret is no flag:
    everyone on a machine can read the flags of its processes.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        flags = [_flag(name, field) for name, field in kind.model_fields.items() if not _is_secret(field)]
        cast("Any", command).__signature__ = inspect.Signature(flags)
        return command

    return give


def default_of(field: FieldInfo) -> str:
    """A setting's default, as a user would write it; nothing where it has none."""
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
    """What a setting may hold besides None."""
    kind = field.annotation
    members = get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)
    return (member for member in members if member is not types.NoneType)
