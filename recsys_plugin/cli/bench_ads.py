"""``recsys bench ads``: a simulated day of auctions by many servers at once."""

from __future__ import annotations

from pathlib import Path

import click

from recsys_plugin.cli._output import reporter
from recsys_plugin.errors import CheckFailed

__all__ = ["ads"]


@click.command()
@click.option(
    "--auctions", type=click.IntRange(min=100), default=200_000, show_default=True, help="Requests in the day."
)
@click.option(
    "--clients", type=click.IntRange(1, 256), default=16, show_default=True, help="Processes that serve at once."
)
@click.option("--campaigns", type=click.IntRange(1, 1000), default=40, show_default=True, help="How many compete.")
@click.option("--slots", type=click.IntRange(1, 20), default=2, show_default=True, help="Ads asked for in a request.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Fixes users, clicks and chance."
)
@click.option("--json", "target", metavar="FILE", help="Write the report as JSON; - is standard output.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw spend over the day: .png, .svg or .pdf."
)
def ads(
    auctions: int, clients: int, campaigns: int, slots: int, seed: int, target: str | None, plot: Path | None
) -> None:
    """A day of ads in a simulated market, with pacing and without: budgets, evenness, revenue, time per auction.

    The clock and the clicks are simulated; campaigns, auctions, budgets and pacing are the code that serves, on a Redis
    of its own, which is started and stopped. Exit code 3 if a campaign spent more than its budget and one bid, or if
    Redis and the servers counted differently.

    \b
    Examples:
      recsys bench ads --json ads.json --plot ads.png
      recsys bench ads --auctions 20000 --clients 4
    """
    from recsys_plugin.bench.ad_market import MarketOptions
    from recsys_plugin.bench.ads import GREEDY, PACED, measure_ads
    from recsys_plugin.bench.ads_plot import draw_ads
    from recsys_plugin.bench.plot import check_plot
    from recsys_plugin.cli.bench import check_target, write_report

    check_target(target)
    if plot is not None:
        check_plot(plot)
    market = MarketOptions(auctions=auctions, campaigns=campaigns, slots=slots)
    with reporter() as tell:
        report, days = measure_ads(market, clients=clients, seed=seed, tell=tell)
    if plot is not None:
        draw_ads(
            plot, days, subtitle=f"{auctions:,} auctions by {clients} processes, {campaigns} campaigns, seed {seed}"
        )
    write_report(report, target)
    for way in (PACED, GREEDY):
        most, differing = (
            report.figures[f"{way}.{name}"] for name in ("most_over_budget_in_bids", "counted_differently")
        )
        if most > 1.0 or differing:
            raise CheckFailed(
                f"{way}: {most:.2f} bids over a budget at most, {differing:g} campaigns counted differently"
            )
