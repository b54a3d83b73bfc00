"""Folding what users did into the live view of items."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from recsys_plugin.aggregation.item_activity import ItemCounts
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.stream.entries import Entry, Transaction
from recsys_plugin.stream.live_rows import LiveRows

__all__ = ["ItemFold", "item_commands"]

_MOST_ITEMS = 50_000
#: Seconds after its last act until an item's counters are forgotten: longer than the longest window.
_ITEM_SECONDS = 30 * 86_400
_LATEST = b"latest"


class ItemFold:
    """Turns entries of the item streams into commands: counters and features.

    Args:
        ask: performs commands, many at a time, and returns their answers.
        keys, rows: where everything lies.
    """

    def __init__(self, ask: Callable[[list[tuple[Any, ...]]], list[Any]], keys: EventKeys, rows: LiveRows) -> None:
        self._ask, self._keys, self._rows = ask, keys, rows
        self._items: OrderedDict[str, ItemCounts] = OrderedDict()

    def stream(self, partition: int) -> str:
        """The stream that it reads."""
        return self._keys.item_events(partition)

    def forget(self, partitions: Iterable[int] | None = None) -> None:
        """Drop what is at hand of the items of some partitions, or of all; Redis has it."""
        if partitions is None:
            self._items.clear()
            return
        gone = set(partitions)
        for item_id in [item_id for item_id in self._items if self._keys.partition(item_id) in gone]:
            del self._items[item_id]

    def fold(self, entries: Sequence[Entry], transaction: Transaction) -> None:
        """Add the commands that the entries call for."""
        acts: list[tuple[str, int, int]] = []
        for entry in entries:
            acts += json.loads(entry.fields[b"acts"])
            transaction.acknowledge(entry, "items_told")
        self._load({item_id for item_id, _, _ in acts})
        changed: dict[str, dict[tuple[int, int, int], None]] = {}
        for item_id, moment, code in acts:
            steps = changed.setdefault(item_id, {})
            steps.update(dict.fromkeys(self._items[item_id].add(moment, code)))
        for item_id, steps in changed.items():
            if steps:
                self._write(item_id, steps, transaction)

    def _load(self, item_ids: set[str]) -> None:
        for item_id in item_ids & self._items.keys():
            self._items.move_to_end(item_id)
        unknown = sorted(item_ids - self._items.keys())
        answers = self._ask([("HGETALL", self._keys.item(item_id)) for item_id in unknown]) if unknown else []
        for item_id, answer in zip(unknown, answers, strict=True):
            stored = dict(zip(answer[::2], answer[1::2], strict=True))
            latest = int(stored.pop(_LATEST, b"0"))
            steps = {_step(field): int(count) for field, count in stored.items()}
            self._items[item_id] = ItemCounts(latest, steps)
        while len(self._items) > max(_MOST_ITEMS, len(item_ids)):
            self._items.popitem(last=False)

    def _write(self, item_id: str, steps: Iterable[tuple[int, int, int]], transaction: Transaction) -> None:
        counts = self._items[item_id]
        for command in item_commands(self._keys, item_id, counts, steps):
            transaction.add(*command)
        transaction.add("HSET", self._rows.item_key(item_id), *self._rows.of_item(counts.counts(), counts.latest))


def item_commands(
    keys: EventKeys, item_id: str, counts: ItemCounts, changed: Iterable[tuple[int, int, int]]
) -> list[tuple[Any, ...]]:
    """What keeps an item's counters in Redis, of which some steps changed."""
    key = keys.item(item_id)
    told = [part for step in changed if step in counts.steps for part in (_field(step), counts.steps[step])]
    commands: list[tuple[Any, ...]] = [("HSET", key, _LATEST, counts.latest, *told)]
    if over := [_field(step) for step in changed if step not in counts.steps]:
        commands.append(("HDEL", key, *over))
    return [*commands, ("EXPIRE", key, _ITEM_SECONDS)]


def _field(step: tuple[int, int, int]) -> str:
    return ":".join(map(str, step))


def _step(field: bytes) -> tuple[int, int, int]:
    window, step, act = (int(part) for part in field.split(b":"))
    return window, step, act
