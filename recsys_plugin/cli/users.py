"""``recsys users``: who of the users is not to be shown to others."""

from __future__ import annotations

from typing import Any

import click

from recsys_plugin.cli._output import emit_json, finish, json_option
from recsys_plugin.errors import ConfigurationError, StoreUnavailable
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.identifiers import checked_id
from recsys_plugin.pipeline.steps import PROJECT
from recsys_plugin.pseudonyms import KEY_VARIABLE, Pseudonyms, opted_out_key
from recsys_plugin.runtime.services import Services, public_url
from recsys_plugin.settings import Settings

__all__ = ["opt_in", "opt_out", "opted_out", "users"]


@click.group()
def users() -> None:
    """Who is not to be shown to others as somebody like them.

    Only pseudonyms are kept, in Redis; RECSYS_PSEUDONYM_KEY makes them.
    """


@users.command("opt-out")
@click.argument("user_ids", metavar="USER...", nargs=-1, required=True)
def opt_out(user_ids: tuple[str, ...]) -> None:
    """Let USERs be nobody's neighbour from the next request on.

    What is counted of communities changes with the next export: give it the list, see `recsys users opted-out`.

    \b
    Examples:
      recsys users opt-out 2020
      recsys users opt-out 2020 1997
    """
    names = _pseudonyms(user_ids)
    added = _send("SADD", *names)
    finish(f"{added} of {len(names)} users opted out; the others had before")


@users.command("opt-in")
@click.argument("user_ids", metavar="USER...", nargs=-1, required=True)
def opt_in(user_ids: tuple[str, ...]) -> None:
    """Take USERs off the list of those who opted out; those whom an export left out come back with the next one.

    \b
    Examples:
      recsys users opt-in 2020
    """
    names = _pseudonyms(user_ids)
    removed = _send("SREM", *names)
    finish(f"{removed} of {len(names)} users are no longer opted out; the others were not")


@users.command("opted-out")
@json_option
def opted_out(as_json: bool) -> None:
    """Print the pseudonyms of those who opted out, one a line, as exports take them.

    \b
    Examples:
      recsys users opted-out > opted_out.txt
      RECSYS_OPTED_OUT=opted_out.txt recsys export
    """
    names = sorted(name.decode() for name in _send("SMEMBERS"))
    if as_json:
        emit_json(names)
    else:
        for name in names:
            click.echo(name)


def _pseudonyms(user_ids: tuple[str, ...]) -> list[str]:
    key = Settings.from_environment().pseudonym_key
    if key is None:
        raise ConfigurationError(f"{KEY_VARIABLE} is not set; give the key that clients and exports have")
    names = Pseudonyms(key)
    return [names.of(checked_id(user_id, "USER")) for user_id in user_ids]


def _send(command: str, *names: str) -> Any:
    """The reply to a command on the set of those who opted out.

    Raises:
        StoreUnavailable: if Redis does not answer.
    """
    import redis

    url = Services(Settings.from_environment()).redis_url
    client: Any = RedisAddress.parse(url).connect(timeout=5.0)
    try:
        return client.execute_command(command, opted_out_key(PROJECT), *names)
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis at {public_url(url)} does not answer: {error}") from error
    finally:
        client.close()
