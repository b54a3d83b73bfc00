"""``recsys similar-users|community``: who is like a user, and which group he belongs to."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import emit_json, json_option
from recsys_plugin.cli.ask import open_recommender
from recsys_plugin.settings import Settings

__all__ = ["community", "similar_users"]

_timeout = click.option("--timeout", default=2.0, show_default=True, help="Seconds that the call may take.")


@click.command()
@click.argument("user_id", metavar="USER")
@click.option("--k", "-k", default=10, show_default=True, help="How many users.")
@_timeout
@json_option
def similar_users(user_id: str, k: int, timeout: float, as_json: bool) -> None:
    """The users nearest to USER, as pseudonyms; RECSYS_PSEUDONYM_KEY must be that of the export.

    \b
    Examples:
      recsys similar-users 2020 -k 5
      recsys similar-users 2020 --json
    """
    with open_recommender(Settings.from_environment(), timeout=timeout) as recommender:
        found = recommender.similar_users(user_id, k)
    if as_json:
        emit_json(found.to_dict())
        return
    table = Table(title=f"Like user {escape(user_id)}", title_justify="left")
    table.add_column("pseudonym")
    table.add_column("similarity", justify="right")
    for user in found:
        table.add_row(user.pseudonym, f"{user.similarity:.4f}")
    Console().print(table)


@click.command()
@click.argument("user_id", metavar="USER")
@_timeout
@json_option
def community(user_id: str, timeout: float, as_json: bool) -> None:
    """The group of users that USER belongs to: its size, and what it buys more than others.

    \b
    Examples:
      recsys community 2020
    """
    with open_recommender(Settings.from_environment(), timeout=timeout) as recommender:
        found = recommender.community(user_id)
    if as_json:
        emit_json(None if found is None else found.to_dict())
        return
    if found is None:
        click.echo(f"user {user_id} belongs to no community")
        return
    table = Table(title=f"Community {found.number} of {found.members} users", title_justify="left", show_header=False)
    table.add_row("categories", escape(", ".join(found.categories)) or "-")
    table.add_row("items", escape(", ".join(found.item_ids)) or "-")
    Console().print(table)
