"""``recsys explain``: why an item has its score for a user, with a chart of what each group of features adds."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys_plugin.bench.plot import check_plot
from recsys_plugin.cli._output import emit_json, finish, json_option
from recsys_plugin.cli.ask import open_recommender
from recsys_plugin.client import Page
from recsys_plugin.client.explanation import Explanation
from recsys_plugin.client.results import ScoredItem
from recsys_plugin.errors import InvalidInput
from recsys_plugin.settings import Settings

__all__ = ["explain"]

#: Characters of the longest bar to either side.
_BAR = 24


@click.command()
@click.argument("user_id", metavar="USER")
@click.argument("item_id", metavar="ITEM")
@json_option
@click.option(
    "--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw the chart as well: .png, .svg, .pdf."
)
@click.option("--timeout", default=2.0, show_default=True, help="Seconds that the call may take.")
def explain(user_id: str, item_id: str, as_json: bool, plot: Path | None, timeout: float) -> None:
    """Why ITEM has its score for USER: the nearest reason, and what each group of features adds to the log-odds.

    \b
    Examples:
      recsys explain 2020 1133018
      recsys explain 2020 1133018 --json | jq .explanation.reason.text
      recsys explain 2020 1133018 --plot why.png
    """
    if plot is not None:
        check_plot(plot)
    with open_recommender(Settings.from_environment(), timeout=timeout, strict=True) as recommender:
        page = recommender.rank(user_id, [item_id], explain=True)
    if page.unknown_items:
        raise InvalidInput(f"ITEM: {item_id!r:.60} is not in the catalogue, and not among the newer items")
    (item,) = page
    if plot is not None and item.explanation is not None:
        _draw(plot, item, item.explanation)
    if as_json:
        emit_json(page.to_dict()["items"][0])
    else:
        _print(page, item)
    if plot is not None:
        finish(f"wrote {plot}")


def _print(page: Page, item: ScoredItem) -> None:
    out = Console()
    known = page.features is not None and page.features.known
    user = escape(page.user_id or "")
    out.print(
        f"[bold]{escape(item.title)}[/] for user {user}" + ("" if known else ", who is not known"), highlight=False
    )
    found = item.explanation
    if found is None:
        return
    out.print(found.reason.text if found.reason else "no reason to be named", markup=False, highlight=False)
    if found.base is None or found.logit is None:
        out.print("this version cannot tell what the score of so new an item is made of", style="dim")
        return
    out.print(_chart(found, found.base, found.logit))
    moved = f", moved by {', '.join(item.moved_by)}" if item.moved_by else ""
    out.print(f"score {item.score:.4f}{moved}", markup=False, highlight=False)


def _chart(found: Explanation, base: float, logit: float) -> Table:
    """Bars to the left for what speaks against the item, to the right for what speaks for it."""
    table = Table(title="added to the log-odds", title_justify="left")
    for name in ("", "log-odds", "against", "for"):
        table.add_column(name, justify="right" if name in ("log-odds", "against") else "left", no_wrap=bool(name))
    longest = max((abs(each.value) for each in found.contributions), default=0.0) or 1.0
    table.add_row("an average item for a visitor", f"{base:+.3f}", "", "", style="dim")
    for each in found.contributions:
        bar = "█" * round(_BAR * abs(each.value) / longest)
        left, right = (f"[red]{bar}[/]", "") if each.value < 0 else ("", f"[green]{bar}[/]")
        table.add_row(each.words, f"{each.value:+.3f}", left, right)
    table.add_row("this item for this user", f"{logit:+.3f}", "", "", style="bold")
    return table


def _draw(path: Path, item: ScoredItem, found: Explanation) -> None:
    """The same chart as a picture."""
    from matplotlib.figure import Figure

    shown = found.contributions[::-1]
    figure = Figure(figsize=(9, 0.45 * len(shown) + 1.6), layout="constrained")
    axes = figure.subplots()
    colours = ["tab:green" if each.value >= 0 else "tab:red" for each in shown]
    axes.barh([each.words for each in shown], [each.value for each in shown], color=colours)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel("added to the log-odds")
    reason = found.reason.text if found.reason else ""
    # What a title says between two dollar signs is no formula.
    axes.set_title(f"{item.title}\n{reason}".strip().replace("$", r"\$"), loc="left")
    figure.savefig(path)
