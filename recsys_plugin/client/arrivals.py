"""Items that are written after the export: how a release takes them up between requests."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from recsys_plugin.client.release import Release, with_new_items
from recsys_plugin.features.item_facts import ItemPlan
from recsys_plugin.inference.catalogue import as_written
from recsys_plugin.inference.new_items import ItemFacts

__all__ = ["take_up"]

#: Items read in one round trip.
_CHUNK = 500


def take_up(release: Release, plan: ItemPlan, item_ids: Iterable[str]) -> Generator[Any, Any, Release]:
    """Read items that were written: new ones become candidates, known ones show their present title and price.

    What the models know of a known item stays as it was exported.

    Raises:
        StoreUnavailable, InferenceUnavailable: if a server fails; the release is then as it was, but for what it shows.
    """
    asked = list(dict.fromkeys(item_ids))
    fresh: list[ItemFacts] = []
    for start in range(0, len(asked), _CHUNK):
        chunk = asked[start : start + _CHUNK]
        replies = yield plan.read(chunk)
        for item_id, reply in zip(chunk, replies, strict=True):
            found = plan.decode(item_id, reply)
            if found is None:
                continue
            title, category, subcategory, brand, price = found
            facts = ItemFacts(item_id, title, category, subcategory, brand, as_written(price))
            row = release.catalogue.rows.get(item_id)
            if row is None:
                fresh.append(facts)
            else:
                release.catalogue.show(row, title=facts.title, category=facts.category, price=facts.price)
    return (yield from with_new_items(release, fresh))
