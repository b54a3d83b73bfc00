"""``recsys security``: Redis users with few rights."""

from __future__ import annotations

import click

from recsys_plugin.cli._output import emit_json, finish, json_option
from recsys_plugin.security.acl import ROLES, role

__all__ = ["acl", "security"]


@click.group()
def security() -> None:
    """Show and check what keeps others out.

    \b
    Examples:
      recsys security acl --role client
    """


@security.command()
@click.option("--role", "names", type=click.Choice(list(ROLES)), multiple=True, help="Only this role; all by default.")
@click.option("--user", help="The user's name; recsys-ROLE by default. Goes with one --role.")
@json_option
def acl(names: tuple[str, ...], user: str | None, as_json: bool) -> None:
    """Print the Redis users that the system needs, each with the least rights, as `ACL SETUSER` lines.

    Put a password of your own in place of PASSWORD, and send the lines with redis-cli, or write them, without the
    words ACL SETUSER and with `user` before them, into the server's ACL file.

    \b
    Examples:
      recsys security acl
      recsys security acl --role client --user shop | sed "s/>PASSWORD/>$(cat secret)/" | redis-cli
      recsys security acl --json | jq '.client.commands'
    """
    from recsys_plugin.pipeline.steps import PROJECT

    chosen = [role(name, PROJECT) for name in names or ROLES]
    if user is not None and len(chosen) != 1:
        raise click.UsageError("--user goes with one --role")
    if as_json:
        emit_json(
            {
                each.name: {
                    "purpose": each.purpose,
                    "line": each.line(user),
                    "commands": each.commands,
                    "read": each.read,
                    "change": each.change,
                    "channels": each.channels,
                }
                for each in chosen
            }
        )
        return
    for each in chosen:
        click.echo(f"# {each.purpose}\n{each.line(user)}\n")
    finish(f"{len(chosen)} {'user' if len(chosen) == 1 else 'users'}; replace PASSWORD", then="redis-cli")
