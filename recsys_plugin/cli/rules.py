"""``recsys rules``: the shop's rules for its pages, checked, loaded, shown and taken away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option
from recsys_plugin.policy.rules import NO_RULES, SHELVES, MalformedRules, PageRules
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.features.reader import FeatureReader

__all__ = ["check", "clear", "load", "rules", "show"]

_TIMEOUT = 5.0
_FILE = click.argument("file", type=click.File("rb"))


@click.group()
def rules() -> None:
    """Rules for pages, as a JSON document; clients follow a change within a second.

    \b
    A document, in which every rule may be left out:
      {"default": {"caps": {"category": 4, "brand": 2},
                   "already": {"bought_days": 14, "seen_days": 1},
                   "price": {"lowest": 1, "highest": 500},
                   "exclude": {"items": [], "categories": ["Tobacco"], "brands": []},
                   "freshness": {"boost": 0.2, "half_life_days": 30},
                   "diversity": {"method": "mmr", "strength": 0.2}},
       "shelves": {"recommend": {"pins": [{"item": "1029743", "position": 1}],
                                 "sponsored": [4, 9],
                                 "objectives": {"click": 0.1, "purchase": 1, "price_power": 0.3}},
                   "search": {"already": null}}}
    """


@rules.command()
@_FILE
@json_option
def check(file: BinaryIO, as_json: bool) -> None:
    """Read FILE and say what is wrong with it; nothing is changed. - reads standard input.

    \b
    Examples:
      recsys rules check rules.json
      recsys rules check rules.json && recsys rules load rules.json
    """
    found = PageRules.from_json(_read(file))
    _show(found, as_json)
    finish(f"{file.name} is a document of rules", then=f"recsys rules load {file.name}")


@rules.command()
@_FILE
@json_option
def load(file: BinaryIO, as_json: bool) -> None:
    """Let FILE be the shop's rules, in place of those before; clients take it up within a second.

    \b
    Examples:
      recsys rules load rules.json
      generate-rules | recsys rules load -
    """
    from recsys_plugin.client.following import rules_commands

    text = _read(file)
    found = PageRules.from_json(text)
    _perform(rules_commands(_project(), text.decode()).commands)
    _show(found, as_json)
    finish(f"rules {found.digest} hold from now on", then="recsys rules show")


@rules.command()
@json_option
def show(as_json: bool) -> None:
    """Show the rules that hold.

    \b
    Examples:
      recsys rules show
      recsys rules show --json | jq .default
    """
    from recsys_plugin.events.keys import EventKeys

    (text,) = _perform((("GET", EventKeys(_project()).rules),))
    if text is None:
        if as_json:
            emit_json(None)
        finish("there are no rules: the best items that are not sold out", then="recsys rules load FILE")
        return
    found = PageRules.from_json(text)
    _show(found, as_json)
    finish(f"rules {found.digest} hold")


@rules.command()
@json_option
def clear(as_json: bool) -> None:
    """Take the rules away: every shelf shows its best items that are not sold out.

    \b
    Example:
      recsys rules clear
    """
    from recsys_plugin.client.following import rules_commands

    (removed,) = _perform(rules_commands(_project(), None).commands)
    if as_json:
        emit_json({"cleared": bool(removed)})
    finish("the rules are taken away" if removed else "there were no rules")


def _read(file: BinaryIO) -> bytes:
    """The document's text.

    Raises:
        MalformedRules: if it is not UTF-8.
    """
    data = file.read()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise MalformedRules(f"{file.name}: not UTF-8: {error}") from error
    return data


def _project() -> str:
    from recsys_plugin.pipeline.steps import PROJECT

    return PROJECT


def _perform(commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
    from recsys_plugin.features.connection import RedisAddress
    from recsys_plugin.features.reader import FeatureReader
    from recsys_plugin.runtime.services import Services

    address = RedisAddress.parse(Services(Settings.from_environment()).redis_url)
    reader: FeatureReader = FeatureReader(address, timeout=_TIMEOUT)
    try:
        return reader.execute(commands, timeout=_TIMEOUT)
    finally:
        reader.close()


def _show(found: PageRules, as_json: bool) -> None:
    """Every rule of every shelf that has one."""
    if as_json:
        emit_json({"digest": found.digest, **found.to_dict()})
        return
    table = Table(box=SIMPLE_HEAD)
    for name in ("shelf", "rule", ""):
        table.add_column(name)
    for shelf in SHELVES:
        for rule, value in found.of(shelf).to_dict().items():
            if rule == "least_stock" and value == NO_RULES.of(shelf).least_stock:
                continue
            table.add_row(shelf, rule, _said(value))
    console.print(table)


def _said(value: Any) -> str:
    """A rule's fields in a few words."""
    if isinstance(value, dict):
        told = {name: each for name, each in value.items() if each not in (None, ())}
        return ", ".join(f"{name} {_short(each)}" for name, each in told.items())
    return _short(value)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
