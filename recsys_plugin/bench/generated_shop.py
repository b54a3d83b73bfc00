"""A made-up shop of any size, written piece by piece: for measuring memory and time, never quality.

What is drawn follows what logs of real shops look like. Items and users are popular and active by a power law. A user
has three tastes among the categories and some favourites that he buys again and again. A visit is a few looks at items
within minutes; some looks lead to the cart, and what is bought is bought at one moment at the visit's end. The shop
gains users over the months. No two events depend on one another through anything kept, so that a billion events need
no more memory than a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from recsys_plugin.data.schema import TABLES
from recsys_plugin.errors import InvalidInput

__all__ = ["GeneratedShop"]

_Array = np.ndarray[Any, np.dtype[Any]]

_START = datetime(2025, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000  # microseconds
_DAY = 86_400 * _SECOND
_NOUNS = (
    "lamp", "mug", "scarf", "kettle", "novel", "puzzle", "jacket", "boots", "garden hose", "desk", "pillow", "speaker",
    "backpack", "tent", "watch", "frying pan", "toy train", "yoga mat", "notebook", "perfume", "shampoo", "coffee",
    "green tea", "olive oil", "bicycle helmet", "headphones", "keyboard", "monitor", "curtain", "rug", "candle", "vase",
    "drill", "hammer", "paint", "dog lead", "cat food", "aquarium", "guitar", "violin strings",
)  # fmt: skip
_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "grey", "brown")
_STYLES = ("classic", "modern", "small", "large", "light", "sturdy", "simple", "fine", "vintage", "travel")
_BRANDS = ("Acorn", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel")
_COUNTRIES = ("Norway", "Japan", "Brazil", "Kenya", "France", "Canada")
_AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
#: Shares of a user's three tastes.
_TASTES = (0.6, 0.85, 1.0)
_FAVOURITES = 8


@dataclass(frozen=True, slots=True)
class GeneratedShop:
    """A shop with exactly ``events`` events.

    Attributes:
        events: how many.
        seed: fixes everything.
        users: how many there are in the end; one for every fifty events if None.
        items: how many; one for every hundred events, at most 20,000, if None.
        days: how long the shop has been open at its last event.
        rows: events drawn and written at a time, which bounds the memory.
    """

    events: int
    seed: int = 0
    users: int | None = None
    items: int | None = None
    days: int = 180
    rows: int = 250_000

    def __post_init__(self) -> None:
        if min(self.events, self.days, self.rows, self.user_count, self.item_count) < 1:
            raise InvalidInput("a generated shop needs at least one event, user, item, day and row")

    @property
    def user_count(self) -> int:
        """How many users there are."""
        return max(10, self.events // 50) if self.users is None else self.users

    @property
    def item_count(self) -> int:
        """How many items there are."""
        return min(20_000, max(len(_NOUNS), self.events // 100)) if self.items is None else self.items

    def write(self, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Write ``users``, ``items`` and ``events`` as Parquet, events nearly in order of time, as logs are.

        Args:
            folder: made if it does not exist.
            progress: told events written and events in all.
        """
        folder.mkdir(parents=True, exist_ok=True)
        parquet.write_table(self._users(), folder / "users.parquet", compression="zstd")
        parquet.write_table(self._items(), folder / "items.parquet", compression="zstd")
        done = 0
        schema = pa.schema([field for field in TABLES["events"].arrow_schema if field.name not in _NOT_MADE])
        with parquet.ParquetWriter(folder / "events.parquet", schema, compression="zstd") as writer:
            for table in self._pieces():
                writer.write_table(table.cast(schema))
                done += table.num_rows
                progress(done, self.events)

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    def _users(self) -> pa.Table:
        generator, count = self._generator(0), self.user_count
        return pa.table(
            {
                "user_id": _names("u", np.arange(count)),
                "country": pa.array(np.array(_COUNTRIES)[generator.integers(len(_COUNTRIES), size=count)]),
                "age_group": pa.array(
                    np.array(_AGES)[generator.integers(len(_AGES), size=count)], mask=generator.random(count) < 0.3
                ),
            }
        )

    def _items(self) -> pa.Table:
        generator, count = self._generator(1), self.item_count
        numbers = np.arange(count)
        nouns = np.array(_NOUNS)[numbers % len(_NOUNS)]
        brands = np.array(_BRANDS)[generator.integers(len(_BRANDS), size=count)]
        words = [np.array(words)[generator.integers(len(words), size=count)] for words in (_STYLES, _COLOURS)]
        titles = pc.binary_join_element_wise(
            *(pa.array(part) for part in (brands, *words, nouns)), pa.array(numbers).cast(pa.string()), " "
        )
        return pa.table(
            {
                "item_id": _names("i", numbers),
                "title": titles,
                "category": pa.array(nouns),
                "brand": pa.array(brands),
                "price": pa.array(self._prices()),
            }
        )

    def _prices(self) -> _Array:
        return np.round(np.exp(self._generator(2).normal(2.5, 0.8, self.item_count)), 2)

    def _pieces(self) -> Iterator[pa.Table]:
        prices = self._prices()
        width = self.days * _DAY / self.events
        for piece, first in enumerate(range(0, self.events, self.rows)):
            rows = min(self.rows, self.events - first)
            start = int(_START.timestamp()) * _SECOND + int(first * width)
            yield self._piece(self._generator(3, piece), rows, start, int(rows * width), first / self.events, prices)

    def _piece(
        self, generator: np.random.Generator, rows: int, start: int, span: int, age: float, prices: _Array
    ) -> pa.Table:
        """``rows`` events of visits that begin in ``span`` microseconds from ``start``."""
        # Every look makes at least one event, so as many looks as rows are always enough.
        visits = max(1, rows // 3)
        looks = 1 + generator.geometric(0.4, size=visits)
        visit = np.repeat(np.arange(visits), looks)
        carted = generator.random(len(visit)) < 0.3
        bought = carted & (generator.random(len(visit)) < 0.6)
        returned = generator.random(len(visit)) < 0.005
        size = int(np.searchsorted(np.cumsum(1 + carted + bought.astype(np.int64) + returned), rows)) + 1
        visit, carted, bought, returned = visit[:size], carted[:size], bought[:size], returned[:size]
        visits = int(visit[-1]) + 1
        opening = np.r_[True, visit[1:] != visit[:-1]]
        # Half of the users were there at the beginning, the others came evenly over the months.
        known = max(1, int(self.user_count * (0.5 + 0.5 * age)))
        user = _power_law(generator, visits, known, 1.7)[visit]
        item = self._wanted(generator, user)
        begun = start + (generator.random(visits) * span).astype(np.int64)
        seconds = np.cumsum(generator.exponential(40.0, size=len(visit))).astype(np.int64)
        seconds -= np.repeat(seconds[opening], np.bincount(visit))
        clicked = begun[visit] + seconds * _SECOND
        ends = np.zeros(visits, np.int64)
        np.maximum.at(ends, visit, clicked)
        searched = opening & (generator.random(len(visit)) < 0.3)
        parts = (
            ("click", np.ones(len(visit), bool), clicked),
            ("cart", carted, clicked + 15 * _SECOND),
            ("purchase", bought, ends[visit] + 60 * _SECOND),
            ("return", returned, clicked),
        )
        chosen = [np.flatnonzero(happened) for _, happened, _ in parts]
        look = np.concatenate(chosen)
        kind = np.repeat(np.arange(len(parts)), [len(part) for part in chosen])
        when = np.concatenate([moment[part] for part, (_, _, moment) in zip(chosen, parts, strict=True)])
        order = np.argsort(when, kind="stable")[:rows]
        look, kind, when = look[order], kind[order], when[order]
        is_purchase = kind == 2
        nouns = pa.array(_NOUNS)
        return pa.table(
            {
                "user_id": _names("u", user[look]),
                "item_id": _names("i", item[look]),
                "event_type": pa.array([name for name, _, _ in parts]).take(pa.array(kind)),
                "timestamp": pa.array(when).cast(pa.timestamp("us", tz="UTC")),
                "quantity": pa.array(np.where(is_purchase & (look % 5 == 0), 2.0, 1.0)),
                "price": pa.array(prices[item[look]], mask=~is_purchase),
                "query": nouns.take(pa.array(item[look] % len(_NOUNS), mask=~(searched[look] & (kind == 0)))),
            }
        )

    def _wanted(self, generator: np.random.Generator, user: _Array) -> _Array:
        """The item of each look: one of the user's favourites, or a popular one of a category that he likes."""
        size = len(user)
        taste = np.searchsorted(np.array(_TASTES), generator.random(size), side="right")
        category = _mixed(user * len(_TASTES) + taste, self.seed) % len(_NOUNS)
        of_category = max(1, self.item_count // len(_NOUNS))
        rank = _power_law(generator, size, of_category, 2.2)
        again = generator.random(size) < 0.35
        favourite = _mixed(user * _FAVOURITES + generator.integers(_FAVOURITES, size=size), self.seed + 1)
        category = np.where(again, favourite % len(_NOUNS), category)
        rank = np.where(again, favourite // len(_NOUNS) % of_category, rank)
        wanted: _Array = (rank * len(_NOUNS) + category) % self.item_count
        return wanted


_NOT_MADE = ("event_id", "basket_id")


def _power_law(generator: np.random.Generator, size: int, count: int, exponent: float) -> _Array:
    """Draws from 0 … count - 1, the density falling as rank to the power of 1 / exponent - 1."""
    drawn = (count * generator.random(size) ** exponent).astype(np.int64)
    return np.minimum(drawn, count - 1)


def _mixed(numbers: _Array, seed: int) -> _Array:
    """A fixed scramble of whole numbers, non-negative int64: Steele et al. 2014, the finaliser of SplitMix64."""
    mixed = numbers.astype(np.uint64) + np.full(1, seed + 1, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    halved: _Array = mixed >> np.uint64(1)
    return halved.astype(np.int64)


def _names(letter: str, numbers: _Array) -> pa.Array:
    """Ids such as u0000000042, in another order than that of popularity; distinct up to a billion."""
    digits = pc.utf8_lpad(pa.array(numbers * 382_193_357 % 1_000_000_007).cast(pa.string()), 10, "0")
    return pc.binary_join_element_wise(pa.scalar(letter), digits, "")
