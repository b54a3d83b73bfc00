"""``recsys demo``: every step from data to pages, then what came of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys_plugin.cli._output import console, emit_json, finish, json_option, reporter
from recsys_plugin.cli.ask import open_recommender, print_page
from recsys_plugin.cli.pipeline import metrics_table, training_flags, training_options
from recsys_plugin.client import Page, Recommender
from recsys_plugin.pipeline import online, steps
from recsys_plugin.runtime.services import Services
from recsys_plugin.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from recsys_plugin.data.store import Dataset

__all__ = ["demo"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_ANY = click.Path(exists=True, path_type=Path)
_CALLS = 100
_SHOWN = 5

#: What is printed at the end; the shop's backend does the same.
_SNIPPET = """\
  eval "$({recsys} env)"
  {python} - <<'PYTHON'
  from recsys_plugin import Recommender

  with Recommender.from_environment() as recommender:
      for item in recommender.recommend("{user}", k=10):
          print(item.position, item.title, item.price, item.score)
  PYTHON"""


@click.command()
@click.option("--source", type=click.Choice(["complete_journey", "online_retail"]), help="A public data set.")
@click.option("--from", "folder", type=_FOLDER, help="A folder of your own tables (see `recsys data --schema`).")
@click.option("--data", "path", type=_ANY, help="File, or folder with data sets, for --source; default RECSYS_DATA.")
@training_flags
@json_option
def demo(
    source: str | None,
    folder: Path | None,
    path: Path | None,
    encoder: str,
    seed: int,
    two_tower_steps: int | None,
    ranker_epochs: int | None,
    as_json: bool,
) -> None:
    """Go from data to served recommendations, step by step; what is current is not repeated.

    \b
    Examples:
      recsys demo                          the packaged demo shop
      recsys demo --from my_tables         your own users, items and events
      recsys demo --source online_retail   UCI Online Retail II
    """
    if folder is not None and (source is not None or path is not None):
        raise click.UsageError("--from excludes --source and --data")
    settings = Settings.from_environment()
    options = training_options(encoder, seed, two_tower_steps, ranker_epochs)
    with _step("data"), reporter() as progress:
        from recsys_plugin.data.prepare import prepare_data

        dataset = prepare_data(
            settings, source=source, folder=folder, path=path, now=datetime.now(UTC), progress=progress
        )
    console.print(f"  {dataset.description.description}", style="dim", markup=False, soft_wrap=True)
    with _step("apply"), reporter() as progress:
        steps.apply(settings, progress)
    with _step("train"), reporter() as progress:
        report = steps.train(settings, options, progress).info
    console.print(metrics_table(report))
    console.print(f"  labels {report['labels']}", style="dim", soft_wrap=True)
    with _step("materialize"), reporter() as progress:
        online.materialize(settings, progress)
    with _step("export"), reporter() as progress:
        steps.export(settings, options, progress)
    services = Services(settings)
    with _undone_if_interrupted(services):
        with _step("up"):
            started = services.up(lambda text: console.print(f"  … {escape(text)}", highlight=False)).started
        console.print("[bold]recsys recommend[/]")
        with open_recommender(settings, timeout=5.0, strict=True) as recommender:
            _show(dataset, recommender, started, report, as_json=as_json)


@contextmanager
def _step(name: str) -> Iterator[None]:
    console.print(f"[bold]recsys {name}[/]")
    begun = time.perf_counter()
    yield
    console.print(f"[green]✓[/] {name} in {time.perf_counter() - begun:.1f} s", highlight=False)


@contextmanager
def _undone_if_interrupted(services: Services) -> Iterator[None]:
    """Leave no server that was not there before, should the demo not come to its end."""
    before = {status.name for status in services.status() if status.state != "stopped"}
    try:
        yield
    except BaseException:
        if not before:
            services.down()
        raise


def _show(dataset: Dataset, recommender: Recommender, started: tuple[str, ...], report: Any, *, as_json: bool) -> None:
    users = _three_users(dataset)
    pages = [recommender.recommend(user, k=10) for user in users]
    bought = {user: _bought_lately(dataset, user) for user in users}
    latencies = _latencies(recommender, users, pages)
    if as_json:
        emit_json(
            {
                "dataset": dataset.manifest(),
                "report": report,
                "users": [
                    {"user_id": page.user_id, "bought": bought[str(page.user_id)], "page": page.to_dict()}
                    for page in pages
                ],
                "latency_ms": latencies,
            }
        )
    else:
        out = Console()
        for page in pages:
            out.print(_bought_table(str(page.user_id), bought[str(page.user_id)]))
            print_page(page, title=f"Recommended to {escape(str(page.user_id))}")
            out.print()
        out.print(_latency_table(latencies))
    finish(
        f"served by {', '.join(started) or 'the servers that ran already'}; they stay up until you run `recsys down`"
    )
    script = Path(sys.executable)
    console.print("\nFrom your backend:\n", highlight=False)
    text = _SNIPPET.format(recsys=script.with_name("recsys"), python=script, user=users[0])
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _three_users(dataset: Dataset) -> list[str]:
    """A frequent, a middling and a rare buyer, of those who bought in the last 30 days of the data."""
    events = _purchases(dataset)
    recent = events.loc[events["timestamp"] > events["timestamp"].max() - _days(30), "user_id"].unique()
    counts = events[events["user_id"].isin(recent)].groupby("user_id").size().sort_values(kind="stable")
    places = [0.95, 0.5, 0.05]
    return list(dict.fromkeys(str(counts.index[round(place * (len(counts) - 1))]) for place in places))


def _days(count: int) -> pd.Timedelta:
    import pandas as pd

    return pd.Timedelta(days=count)


def _purchases(dataset: Dataset) -> pd.DataFrame:
    events = dataset.frame("events", ["user_id", "item_id", "event_type", "timestamp", "price"])
    return events[events["event_type"] == "purchase"]


def _bought_lately(dataset: Dataset, user: str) -> list[dict[str, Any]]:
    events = _purchases(dataset)
    last = events[events["user_id"] == user].sort_values("timestamp", kind="stable").tail(_SHOWN).iloc[::-1]
    titles = dict(zip(*(dataset.table("items")[name].to_pylist() for name in ("item_id", "title")), strict=True))
    return [
        {"item_id": item, "title": titles[item], "price": None if price != price else price, "at": moment.isoformat()}
        for item, price, moment in zip(last["item_id"], last["price"].tolist(), last["timestamp"], strict=True)
    ]


def _bought_table(user: str, bought: list[dict[str, Any]]) -> Table:
    table = Table(title=f"User {escape(user)} lately bought", title_justify="left")
    table.add_column("title", overflow="fold")
    table.add_column("price", justify="right")
    table.add_column("on")
    for row in bought:
        price = "–" if row["price"] is None else f"{row['price']:.2f}"
        table.add_row(escape(row["title"]), price, row["at"][:10])
    return table


def _latencies(recommender: Recommender, users: list[str], pages: list[Page]) -> dict[str, dict[str, float]]:
    """Percentiles of whole calls, after a warm-up, one caller at a time."""
    import numpy as np

    items = list(pages[0].item_ids)
    query = " ".join(pages[0][0].title.split()[:3]) if len(pages[0]) else "gift"
    calls: dict[str, Callable[[str], Page]] = {
        "recommend (500 candidates, 20 items)": lambda user: recommender.recommend(user),
        f"rank ({len(items)} items)": lambda user: recommender.rank(user, items),
        "search (20 items)": lambda user: recommender.search(user, query),
        "similar_items (20 items)": lambda _: recommender.similar_items(items[0]),
    }
    result: dict[str, dict[str, float]] = {}
    for name, call in calls.items():
        spent = []
        for number in range(_CALLS + 10):
            begun = time.perf_counter()
            call(users[number % len(users)])
            spent.append(1000 * (time.perf_counter() - begun))
        p50, p95, p99 = np.percentile(spent[10:], [50, 95, 99])
        result[name] = {"p50": float(p50), "p95": float(p95), "p99": float(p99), "calls": _CALLS}
    return result


def _latency_table(latencies: dict[str, dict[str, float]]) -> Table:
    table = Table(title="Latency of whole calls on this machine, milliseconds", title_justify="left")
    table.add_column("call")
    for name in ("p50", "p95", "p99", "calls"):
        table.add_column(name, justify="right")
    for call, figures in latencies.items():
        table.add_row(call, *(f"{figures[name]:.1f}" for name in ("p50", "p95", "p99")), f"{figures['calls']:.0f}")
    return table
