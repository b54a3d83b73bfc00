"""Substitutes and complements: how many of what each shelf shows is of the same kind as what was asked about."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recsys_plugin.bench.machine import load_average
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import Tell, open_shop
from recsys_plugin.bench.timing import Samples
from recsys_plugin.client.results import Page
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.settings import Settings

__all__ = ["measure_separation"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Items on a page.
_PLACES = 10
#: The most sold items; the others that were sold are seldom sold.
_OFTEN = 1000
_KINDS = ("category", "subcategory")


def measure_separation(settings: Settings, *, now: float, items: int, users: int, seed: int, tell: Tell) -> Report:
    """Ask for items like an item, for what goes with it, and for categories that are new to a user.

    Args:
        settings: the home, whose servers run. now: the time of every request, unix seconds.
        items: how many to ask about, of the most sold and of the seldom sold each. users: to ask for.
        seed: fixes which. tell: told what is under way.

    Returns:
        ``<shelf>.<often|seldom>.same_category`` and ``.same_subcategory``: the share of ten items that are of the
        item's own, mean over items that have one; ``cross_category.new_to_history``: the share of ten items of whose
        category the user never bought anything.

    Raises:
        ConfigurationError: if the home has no data, or its items no categories.
        ServiceUnavailable: if its servers do not answer.
    """
    draw = np.random.default_rng(seed)
    with open_shop(settings, now=now, users=users, seed=seed) as shop:
        report = begin_report("Substitutes and complements", shop.redis_url, shop.triton_url)
        kinds, bought = _tables(settings)
        sold = [item for item in bought["item_id"].value_counts().index if item in shop.release.catalogue.rows]
        for often, pool in (("often", sold[:_OFTEN]), ("seldom", sold[_OFTEN:])):
            asked = [pool[place] for place in draw.permutation(len(pool))[:items]]
            shelves: dict[str, Callable[[str], Page]] = {
                "similar_items": lambda item: shop.recommender.similar_items(item, _PLACES),
                "cross_sell": lambda item: shop.recommender.cross_sell([item], _PLACES),
            }
            for shelf, ask in shelves.items():
                tell(f"{shelf}, {often} sold", 0, len(asked))
                pages = _timed(report, f"{shelf}.{often}", ask, asked)
                for kind in _KINDS:
                    if (share := _same(kinds[kind], asked, pages)) is not None:
                        report.add(f"{shelf}.{often}.same_{kind}", share)
        tell("cross_category", 0, len(shop.users))
        pages = _timed(
            report, "cross_category", lambda user: shop.recommender.cross_category(user, _PLACES), list(shop.users)
        )
        history = bought.assign(category=bought["item_id"].map(kinds["category"])).groupby("user_id")["category"]
        known = {user: set(names) for user, names in history if user in shop.users}
        fresh = [
            np.mean([item.category not in known.get(user, set()) for item in page])
            for user, page in zip(shop.users, pages, strict=True)
            if len(page)
        ]
        if fresh:
            report.add("cross_category.new_to_history", float(np.mean(fresh)))
    report.machine["load_average_after"] = load_average()
    report.notes += [
        f"same_category and same_subcategory: the share of {_PLACES} items that are of the category of the item asked "
        "about, mean over items",
        f"often: {items} of the {_OFTEN:,} most sold items, drawn at random; seldom: as many of the others",
        "new_to_history: the share of the items of cross_category of whose category the user never bought anything",
    ]
    return report


def _tables(settings: Settings) -> tuple[dict[str, dict[str, str | None]], pd.DataFrame]:
    """Of each kind of category, item → its own; and who bought what."""
    items = pq.read_table(settings.tables / "items.parquet", columns=["item_id", *_KINDS]).to_pandas()
    if items["category"].isna().all():
        raise ConfigurationError(f"the items in {settings.tables} have no categories to tell complements by")
    events = pq.read_table(settings.tables / "events.parquet", columns=["user_id", "item_id", "event_type"])
    frame = events.to_pandas()
    bought = frame[frame["event_type"] == "purchase"].drop_duplicates(["user_id", "item_id"])
    return {kind: dict(zip(items["item_id"], items[kind], strict=True)) for kind in _KINDS}, bought


def _timed(report: Report, name: str, ask: Callable[[str], Page], asked: Sequence[str]) -> list[Page]:
    pages: list[Page] = []
    milliseconds: list[float] = []
    for subject in asked:
        started = time.perf_counter()
        pages.append(ask(subject))
        milliseconds.append(1000 * (time.perf_counter() - started))
    if pages:
        report.add_samples(name, Samples(np.array(milliseconds)))
    return pages


def _same(kinds: dict[str, str | None], asked: Sequence[str], pages: Sequence[Page]) -> float | None:
    """The mean share of a page that is of the kind of the item asked about; ``None`` if none has one."""
    shares = [
        np.mean([kinds.get(other) == kinds[item] for other in page.item_ids])
        for item, page in zip(asked, pages, strict=True)
        if kinds.get(item) and len(page)
    ]
    return float(np.mean(shares)) if shares else None
