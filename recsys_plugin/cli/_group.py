"""The click group behind ``recsys``: lazy commands, and errors turned into messages and exit codes."""

from __future__ import annotations

import importlib
from typing import Any

import click

from recsys_plugin.cli import COMMANDS
from recsys_plugin.cli._output import console
from recsys_plugin.errors import RecsysError

__all__ = ["recsys"]


class _LazyGroup(click.Group):
    """Imports a command's module when the command is asked for: ``recsys down`` must not wait for Feast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RecsysError as error:
            console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            ctx.exit(error.exit_code)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="recsys-plugin")
def recsys() -> None:
    """Real-time shop recommendation on Feast, Redis and Triton.

    Start with `recsys demo`. The steps, each safe to repeat: data, apply, train, materialize, export, up,
    recommend. Exit codes: 0 done, 1 failed, 2 wrong input, 3 a check or threshold not met.
    """
