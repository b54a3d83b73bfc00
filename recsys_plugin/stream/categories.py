"""The categories of items, as the feature store has them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.features.item_facts import ItemPlan

__all__ = ["ItemCategories"]

_log = logging.getLogger("recsys_plugin")

#: Seconds after which a category is read again: catalogues change rarely.
_FRESH_SECONDS = 300.0
#: Items whose categories are kept; beyond that all are read anew.
_MOST_ITEMS = 1_000_000


class ItemCategories:
    """Item -> category; read when it is first wanted, and again after five minutes.

    Args:
        ask: performs commands, many at a time, and returns their answers.
        plan: how items are read.
        timer: seconds that only run forward.
    """

    def __init__(
        self, ask: Callable[[list[tuple[Any, ...]]], list[Any]], plan: ItemPlan, timer: Callable[[], float]
    ) -> None:
        self._ask, self._plan, self._timer = ask, plan, timer
        self._known: dict[str, str] = {}
        self._since = timer()

    def of(self, item_ids: Iterable[str]) -> dict[str, str]:
        """The categories of at least these items; empty where there is none, or the item is not known or corrupt."""
        if self._timer() - self._since > _FRESH_SECONDS or len(self._known) > _MOST_ITEMS:
            self._known.clear()
            self._since = self._timer()
        missing = [item_id for item_id in item_ids if item_id not in self._known]
        if missing:
            read = self._plan.read(missing)
            replies = self._ask([("HMGET", key, *read.fields) for key in read.keys])
            for item_id, reply in zip(missing, replies, strict=True):
                try:
                    facts = self._plan.decode(item_id, reply)
                except StoreUnavailable as error:  # one item's fault must not hold up the events of all
                    _log.warning("its category counts as unknown: %s", error)
                    facts = None
                self._known[item_id] = "" if facts is None else facts[1]
        return self._known
