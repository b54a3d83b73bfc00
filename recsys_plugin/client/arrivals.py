"""Items that are written after the export: how a release takes them up between requests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any

from recsys_plugin.client.release import Release, read_stock, with_new_items, with_sold_out
from recsys_plugin.client.rest import REST, portions
from recsys_plugin.features.item_facts import ItemPlan
from recsys_plugin.inference.catalogue import UNKNOWN_STOCK, as_written
from recsys_plugin.inference.new_items import ItemFacts

__all__ = ["TakeUp", "take_up", "take_up_everything"]

#: Either of the two below.
TakeUp = Callable[[Release, ItemPlan, Iterable[str]], Generator[Any, Any, Release]]

#: Items that are read at once, of which a stock is one number and the rest are five values: half a millisecond's work.
_STOCKS_AT_ONCE, _ITEMS_AT_ONCE = 250, 50


def take_up_everything(release: Release, plan: ItemPlan, item_ids: Iterable[str]) -> Generator[Any, Any, Release]:
    """Of all items that the store has, take up those that the catalogue lacks, and the stock of the others.

    Raises as :func:`take_up`.
    """
    fresh: list[str] = []
    for portion in portions(item_ids, _STOCKS_AT_ONCE):
        known = [item_id for item_id in portion if item_id in release.catalogue.rows]
        fresh += (item_id for item_id in portion if item_id not in release.catalogue.rows)
        yield from read_stock(release, plan, known)
        yield REST
    return (yield from take_up(release, plan, fresh))


def take_up(release: Release, plan: ItemPlan, item_ids: Iterable[str]) -> Generator[Any, Any, Release]:
    """Read items that were written: new ones become candidates, known ones show their present title and price.

    What is sold out leaves the pages, and comes back once it is not. What the models know of a known item stays as it
    was exported.

    Raises:
        StoreUnavailable, InferenceUnavailable: if a server fails; the release is then as it was, but for what it shows.
    """
    asked = list(dict.fromkeys(item_ids))
    fresh: list[ItemFacts] = []
    changed = False
    for number, portion in enumerate(portions(asked, _ITEMS_AT_ONCE)):
        if number:
            yield REST
        replies = yield plan.read(portion)
        for item_id, reply in zip(portion, replies, strict=True):
            row = release.catalogue.rows.get(item_id)
            told = plan.stock(item_id, reply)
            stock = UNKNOWN_STOCK if told is None else told
            if row is not None:
                changed |= bool(release.catalogue.stock[row] != stock)
                release.catalogue.stock[row] = stock
            found = plan.decode(item_id, reply)
            if found is None:
                continue
            title, category, subcategory, brand, price = found
            if row is None:
                fresh.append(ItemFacts(item_id, title, category, subcategory, brand, as_written(price), stock))
            else:
                changed |= release.catalogue.show(
                    row, title=title, category=category, subcategory=subcategory, brand=brand, price=price
                )
    # What rules worked out of the catalogue holds for a release, so other facts make another one.
    present = replace(release) if changed else release
    return with_sold_out((yield from with_new_items(present, fresh)))
