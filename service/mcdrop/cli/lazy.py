"""Commands that are imported when they are named, so that `mcdrop --help` loads neither torch nor FastAPI."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand


class LazyCommand(TyperCommand):
    """A command whose module is imported when the command is used.

    Args:
        name: Name of the command.
        target: module:attribute of a function, or of a Typer app with commands of its own.
        summary: The first sentence of its help.
        **settings: Further arguments of `typer.core.TyperCommand`.
    """

    def __init__(self, name: str, target: str, summary: str, **settings: Any) -> None:
        super().__init__(name, help=summary, short_help=summary, **settings)
        self._target = target

    def load(self) -> Any:
        """Import the command, and return it."""
        module, _, attribute = self._target.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        single = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        single.command(self.name, cls=ComputingCommand)(found)
        return typer.main.get_command(single)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the imported command.

        Args:
            info_name: Name of the command as it was typed.
            args: Its arguments.
            parent: Context of the group.
            **extra: Settings of the context.

        Returns:
            The context, whose command is the imported one.
        """
        return self.load().make_context(info_name, args, parent, **extra)


class ComputingCommand(TyperCommand):
    """A command that computes with as many threads as the settings say. Its help does not load torch."""

    def invoke(self, ctx: Any) -> Any:
        """Set the number of threads, then run the command.

        Args:
            ctx: Context of the command.

        Returns:
            What the command returns.
        """
        from mcdrop.cli.options import limit_threads

        limit_threads()
        return super().invoke(ctx)


def lazy_commands(table: Mapping[str, tuple[str, str]]) -> dict[str, TyperCommand]:
    """Return commands that are imported when they are used.

    Args:
        table: For each name the target and the summary of a `LazyCommand`.

    Returns:
        The commands by name, in the order of the table.
    """
    return {name: LazyCommand(name, target, summary) for name, (target, summary) in table.items()}
