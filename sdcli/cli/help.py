"""Help pages without the names of Python's types: a switch takes no value, and an argument is named by what it is."""

from __future__ import annotations

from functools import cached_property, partial
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption


class PlainHelp:
    """A command whose help page has words instead of types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters; Typer adds some, such as --help."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperArgument):
                parameter.display_type_rich = _nothing  # type: ignore[method-assign]
                parameter.get_usage_pieces = partial(_usage, parameter)  # type: ignore[method-assign]
            elif isinstance(parameter, TyperOption) and parameter.is_flag and parameter.metavar is None:
                parameter.metavar = ""
        return parameters


def _nothing(ctx: Any) -> None:
    return None


def _usage(argument: TyperArgument, ctx: Any) -> list[str]:
    """An argument in the usage line, as manuals write it: NAME..., [NAME]."""
    name = f"{argument.display_name_raw}{'' if argument.nargs == 1 else '...'}"
    return [name if argument.required else f"[{name}]"]


class Deferred(TyperCommand):
    """A command whose module is imported when the command is used: until then it is a name and a line of help.

    The module has the name of the command, and in it a function of that name, or an `app` with commands of its own.
    """

    @cached_property
    def command(self) -> Any:
        """The command itself."""
        from sdcli.cli.completion import Command

        module = import_module(f"sdcli.cli.{self.name}")
        if hasattr(module, "app"):
            return typer.main.get_group(module.app)
        app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
        app.command(self.name, cls=Command)(getattr(module, str(self.name)))
        return typer.main.get_command(app)

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """The context of the command itself, which parses the arguments."""
        return self.command.make_context(*arguments, **named)


class Group(PlainHelp, TyperGroup):
    """A command of commands, such as `sdcli` itself."""
