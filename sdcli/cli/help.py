"""Help pages without the names of Python's types: a switch takes no value, and an argument is named by what it is."""

from __future__ import annotations

from functools import partial
from typing import Any

from typer.core import TyperArgument, TyperGroup, TyperOption


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


class Group(PlainHelp, TyperGroup):
    """A command of commands, such as `sdcli` itself."""
