"""``recsys forecast``: demand of the coming week and users' next purchases, made anew or tested on the past."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.settings import Settings, parse_moment

__all__ = ["forecast"]


@click.command()
@click.option("--as-of", metavar="MOMENT", help="Forecast from this moment (ISO 8601); the data's own now without it.")
@click.option("--backtest", is_flag=True, help="Test the forecasts on the last weeks instead; no table changes.")
@click.option(
    "--weeks",
    type=click.IntRange(1),
    default=13,
    show_default=True,
    help="Weeks that --backtest forecasts, each from what was known before it.",
)
@click.option("--force", is_flag=True, help="Run even if everything is current.")
@json_option
def forecast(as_of: str | None, backtest: bool, weeks: int, force: bool, as_json: bool) -> None:
    """Forecast each item's and category's demand of the coming 7 days, and when each user buys next.

    Run it daily after `recsys data` and `recsys apply`; `recsys materialize` then serves the newest forecasts. With
    --backtest it compares past forecasts with what came and with seasonal naive ones, and writes a report with a plot.

    \b
    Examples:
      recsys forecast
      recsys forecast --as-of 2011-11-01
      recsys forecast --backtest --weeks 26
      recsys forecast --backtest --json > backtest.json
    """
    settings = Settings.from_environment()
    moment = None if as_of is None else parse_moment(as_of, name="--as-of")
    if backtest:
        _backtest(settings, moment, weeks, as_json)
        return
    from recsys_plugin.pipeline.forecasts import forecast as make

    with reporter() as progress:
        done = make(settings, progress, as_of=moment, force=force)
    if as_json:
        emit_json({"current": done.current, **done.info})
    said = "forecasts are current" if done.current else f"{sum(done.info['rows'].values()):,} rows of forecasts"
    finish(f"{said}, as of {done.info['as_of']}", then="recsys materialize")


def _backtest(settings: Settings, moment: datetime | None, weeks: int, as_json: bool) -> None:
    import pandas as pd

    from recsys_plugin.data.store import load_dataset
    from recsys_plugin.forecasting.backtest import backtest
    from recsys_plugin.forecasting.demand import forecast_moments
    from recsys_plugin.forecasting.report import demand_lines, timing_lines, write_backtest
    from recsys_plugin.forecasting.tables import read_purchases, valid_moment

    dataset = load_dataset(settings)
    as_of = valid_moment(dataset, moment)
    with reporter() as progress:
        progress("back-test: purchases", 0, 0)
        shop = read_purchases(dataset, before=as_of)
        found = backtest(
            shop, forecast_moments(pd.Timestamp(dataset.first_event), as_of), weeks=weeks, progress=progress
        )
    path = write_backtest(settings.state / "forecasts", found)
    if as_json:
        emit_json(found)
    else:
        for name in ("items", "categories"):
            if rows := demand_lines(found[name], all_models=False):
                console.print(
                    _table(f"demand of {name}", ("class", "forecasts", "model"), "MASE RMSSE WAPE bias", rows)
                )
        if rows := timing_lines(found["users"]):
            bought = f"{found['users']['bought']:.2%} of {found['users']['forecasts']:,} bought within 7 days"
            console.print(_table(bought, ("",), "log-loss Brier mean days", rows))
    finish(f"back-test of {weeks} weeks written to {path.resolve()}")


def _table(title: str, texts: tuple[str, ...], numbers: str, rows: list[tuple[Any, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in texts:
        table.add_column(name, justify="right" if name == "forecasts" else "left")
    for name in numbers.split():
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row, style="bold" if "chosen by class" in row else None)
    return table
