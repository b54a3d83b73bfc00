"""``recsys check``: what should be equal, compared; exit code 3 where it is not."""

from __future__ import annotations

from dataclasses import asdict

import click

from recsys_plugin.cli._output import emit_json, finish, json_option, reporter
from recsys_plugin.settings import Settings

__all__ = ["check", "replay"]


@click.group()
def check() -> None:
    """Compare live features with history."""


@check.command()
@click.option("--days", type=click.FloatRange(min=0.0, min_open=True), default=30.0, show_default=True,
              help="How much of history to replay, up to its end.")  # fmt: skip
@click.option("--moments", type=click.IntRange(1), default=10, show_default=True, help="How often to compare.")
@click.option("--users", type=click.IntRange(1), default=1000, show_default=True, help="Users to compare.")
@click.option("--items", type=click.IntRange(1), default=200, show_default=True, help="Items to compare.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes who is drawn.")
@json_option
def replay(days: float, moments: int, users: int, items: int, seed: int, as_json: bool) -> None:
    """Send history through the event stream and compare the live features with the training tables, bit for bit.

    It uses a Redis of its own and changes nothing. Run `recsys apply` before.

    \b
    Examples:
      recsys check replay
      recsys check replay --days 7 --users 200 --json
    """
    from recsys_plugin.checks import replay as replaying
    from recsys_plugin.data.store import load_dataset
    from recsys_plugin.pipeline.steps import PROJECT, require_feature_tables

    settings = Settings.from_environment()
    dataset = load_dataset(settings)
    tables = require_feature_tables(settings, dataset)
    with reporter() as tell:
        found = replaying.replay(
            dataset, tables, PROJECT, days=days, moments=moments, users=users, items=items, seed=seed, tell=tell
        )
    if as_json:
        emit_json(asdict(found))
    replaying.require_equal(found)
    finish(
        f"{found.rows:,} live rows of {found.users:,} users and {found.items:,} items at {found.moments} moments equal "
        f"history; {found.events:,} events were replayed"
    )
