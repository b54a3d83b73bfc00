"""``recsys ads``: campaigns from a file into Redis, paused and resumed, and how they do today."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import emit_json, finish, json_option
from recsys_plugin.errors import InvalidInput
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    from recsys_plugin.ads.book import CampaignBook
    from recsys_plugin.ads.operations import Campaigns, CampaignStatus

__all__ = ["ads", "check", "list_campaigns", "load", "pause", "resume", "schema", "status"]

_FILE = click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def ads() -> None:
    """Campaigns: who pays for clicks on which items. Changes hold from the next request on, without a restart.

    \b
    A document of campaigns; money in micro-units, 1000000 make one unit of the shop's currency:
      {"format": 1,
       "settings": {"reserve_micros": 10000},
       "campaigns": [
         {"campaign_id": "tea-week", "items": ["1133018", "1082185"],
          "bid_micros": 250000, "budget_per_day_micros": 20000000,
          "budget_micros": 100000000, "start": "2026-11-01", "end": "2026-12-01T00:00:00Z",
          "targeting": {"context": {"page": ["home", "search"]},
                        "user": [{"feature": "user_profile:age_group", "one_of": ["25-34", "35-44"]}]},
          "most_per_user_per_day": 5, "paused": false}]}
    Of a campaign the first two lines are needed, of the settings none; `recsys ads schema` says what each is.

    \b
    Examples:
      recsys ads check campaigns.json
      recsys ads load campaigns.json
      recsys ads pause tea-week
      recsys ads status
    """


@ads.command()
@_FILE
def check(path: Path) -> None:
    """Check FILE without loading it: exit code 2 and a line for each campaign that is wrong, naming the field.

    \b
    Example:
      recsys ads check campaigns.json
    """
    finish(_sentence(_read(path)), then=f"recsys ads load {path}")


@ads.command()
def schema() -> None:
    """Print what a document of campaigns may hold, as a JSON Schema.

    \b
    Example:
      recsys ads schema > campaigns.schema.json
    """
    from recsys_plugin.ads.schema import campaigns_schema

    emit_json(campaigns_schema())


@ads.command()
@_FILE
def load(path: Path) -> None:
    """Put the campaigns of FILE in place of all others; what they spent and showed so far stays counted.

    \b
    Example:
      recsys ads load campaigns.json
    """
    book = _read(path)
    with _campaigns() as campaigns:
        campaigns.load(book)
    finish(f"loaded {_sentence(book)}", then="recsys ads status")


@ads.command("list")
@json_option
def list_campaigns(as_json: bool) -> None:
    """List the campaigns; --json prints the document, as `recsys ads load` takes it.

    \b
    Examples:
      recsys ads list
      recsys ads list --json > campaigns.json
    """
    with _campaigns() as campaigns:
        book = campaigns.read()
    if as_json:
        emit_json(book.to_dict())
        return
    table = Table()
    for name in ("campaign", "items", "bid", "budget a day", "budget", "from", "until", "targeting", "cap", "paused"):
        table.add_column(
            name, justify="right" if name.startswith(("bid", "budget", "cap")) else "left", overflow="fold"
        )
    for each in book.campaigns:
        table.add_row(
            each.campaign_id,
            escape(", ".join(each.items[:5]) + (f" and {len(each.items) - 5} more" if len(each.items) > 5 else "")),
            _money(each.bid_micros),
            _money(each.budget_per_day_micros),
            "" if each.budget_micros is None else _money(each.budget_micros),
            each.start or "",
            each.end or "",
            escape(_whom(each.targeting.to_dict())),
            "" if each.most_per_user_per_day is None else str(each.most_per_user_per_day),
            "paused" if each.paused else "",
        )
    Console().print(table)
    finish(_sentence(book))


@ads.command()
@click.argument("campaign_id", metavar="ID")
def pause(campaign_id: str) -> None:
    """Show a campaign no more from the next request on; clicks on ads that were shown already still count.

    \b
    Example:
      recsys ads pause tea-week
    """
    with _campaigns() as campaigns:
        campaigns.set_paused(campaign_id, True)
    finish(f"{campaign_id} is paused", then=f"recsys ads resume {campaign_id}")


@ads.command()
@click.argument("campaign_id", metavar="ID")
def resume(campaign_id: str) -> None:
    """Let a paused campaign go on, from the next request on.

    \b
    Example:
      recsys ads resume tea-week
    """
    with _campaigns() as campaigns:
        campaigns.set_paused(campaign_id, False)
    finish(f"{campaign_id} goes on", then="recsys ads status")


@ads.command()
@json_option
def status(as_json: bool) -> None:
    """Show how each campaign does today: spend against budget and plan, ads shown, clicks, calibration.

    \b
    Examples:
      recsys ads status
      recsys ads status --json | jq '.campaigns[] | select(.state == "spent today").campaign_id'
    """
    with _campaigns() as campaigns:
        found = campaigns.status()
    if as_json:
        emit_json({"campaigns": [asdict(each) for each in found]})
        return
    Console().print(_status_table(found))
    spent, free = (sum(getattr(each, name) for each in found) for name in ("spent_today", "free_today"))
    running = sum(each.state == "running" for each in found)
    finish(f"{running} of {len(found)} campaigns running, {_money(spent)} spent today, clicks for {_money(free)} free")


def _whom(targeting: dict[str, Any]) -> str:
    """Targeting in a few words."""
    context = [f"{key}: {' or '.join(values)}" for key, values in targeting.get("context", {}).items()]
    return ", ".join([*context, *(condition["feature"] for condition in targeting.get("user", ()))])


def _status_table(found: list[CampaignStatus]) -> Table:
    table = Table(caption="plan: what pacing would have spent by now; calibration: clicks for each that was expected")
    table.add_column("campaign", overflow="fold")
    table.add_column("state")
    for name in ("spent", "budget", "plan", "in all", "of", "shown", "clicks", "CTR", "calibration"):
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(
            each.campaign_id,
            each.state,
            _money(each.spent_today),
            _money(each.budget_per_day),
            _money(each.planned_today),
            _money(each.spent),
            "" if each.budget is None else _money(each.budget),
            f"{each.shown_today:,}",
            f"{each.clicks_today:,}",
            "" if each.click_rate_today is None else f"{each.click_rate_today:.2%}",
            "" if each.calibration is None else f"{each.calibration:.2f}",
        )
    return table


def _read(path: Path) -> CampaignBook:
    from recsys_plugin.ads.book import CampaignBook

    try:
        return CampaignBook.from_json(path.read_bytes())
    except InvalidInput as error:
        raise InvalidInput("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def _campaigns() -> Campaigns:
    """Those of this home's Redis, at the moment that requests are asked at; the embedded one is started if need be."""
    from recsys_plugin.ads.operations import Campaigns
    from recsys_plugin.cli.bench import request_time
    from recsys_plugin.pipeline.steps import PROJECT
    from recsys_plugin.runtime.services import Services

    settings = Settings.from_environment()
    url = click.get_current_context().with_resource(Services(settings).ensure_redis())
    return Campaigns(url, PROJECT, clock=lambda: request_time(settings))


def _sentence(book: CampaignBook) -> str:
    items = len({item for campaign in book.campaigns for item in campaign.items})
    paused = sum(campaign.paused for campaign in book.campaigns)
    return f"{len(book.campaigns)} campaigns for {items} items, {paused} paused"


def _money(micros: float) -> str:
    return f"{micros / 1e6:,.2f}"
