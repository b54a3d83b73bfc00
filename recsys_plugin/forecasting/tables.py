"""The Parquet tables behind the forecast views: each row knows only what was before its moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_plugin.aggregation.arrays import microseconds
from recsys_plugin.data.store import Dataset
from recsys_plugin.errors import InvalidInput
from recsys_plugin.forecasting.demand import Demand, forecast_demand, forecast_moments
from recsys_plugin.forecasting.models import TABLE_MODELS
from recsys_plugin.forecasting.purchase_timing import LONGEST_DAYS, BgNbd, Pace, PurchaseDays, fit_bg_nbd
from recsys_plugin.forecasting.series import CLASSES, DORMANT, Sales
from recsys_plugin.pipeline.feature_tables import write_table, write_tables

__all__ = [
    "ShopPurchases",
    "TimingModel",
    "build_forecast_tables",
    "fit_timing",
    "is_monday",
    "read_purchases",
    "valid_moment",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Told what is under way, how much is done, and of how much.
Progress = Callable[[str, int, int], None]
_EVENT_TIME = ("event_timestamp", pa.timestamp("us", tz="UTC"))
_ITEM = pa.schema(
    [
        ("item_id", pa.string()), _EVENT_TIME, ("purchases_next_7d", pa.float32()),
        ("category_purchases_next_7d", pa.float32()), ("demand_class", pa.string()), ("model", pa.string()),
    ]
)  # fmt: skip
_CATEGORY = pa.schema(
    [
        ("category", pa.string()), _EVENT_TIME, ("purchases_next_7d", pa.float32()),
        ("demand_class", pa.string()), ("model", pa.string()),
    ]
)  # fmt: skip
_USER = pa.schema(
    [
        ("user_id", pa.string()), _EVENT_TIME, ("purchase_probability_7d", pa.float32()),
        ("days_to_next_purchase", pa.float32()), ("active_probability", pa.float32()),
    ]
)  # fmt: skip
#: Users that the parameters are learned from, at most: four numbers need no more.
_FITTED_USERS = 5_000
#: Mondays between two fits, and Mondays whose outcomes say the present pace.
_FIT_EVERY, _PACE_WEEKS = 4, 4
#: Users whose rows are made at a time, and rows of a row group.
_USERS, _GROUP = 4_096, 1 << 15
_WEEK = pd.Timedelta(days=7)


@dataclass(frozen=True, slots=True)
class ShopPurchases:
    """All purchases of a shop.

    Attributes:
        items: by item. categories: by category. users: by user.
        user_ids: object (str) [U], ascending. category_of: int64 [items], the category of each item; -1 for none.
    """

    items: Sales
    categories: Sales
    users: PurchaseDays
    user_ids: _Array
    category_of: _Array


@dataclass(frozen=True, slots=True)
class TimingModel:
    """What holds from a moment on: the parameters, and the pace of the weeks before."""

    moment: pd.Timestamp
    parameters: BgNbd
    pace: Pace


def valid_moment(dataset: Dataset, as_of: Any = None) -> pd.Timestamp:
    """The moment to forecast from; the data's own now if None.

    Raises:
        InvalidInput: if the tables know nothing of it; after their end, nothing sold and nothing known look alike.
    """
    moment = pd.Timestamp(dataset.as_of if as_of is None else as_of)
    if not pd.Timestamp(dataset.first_event) < moment <= pd.Timestamp(dataset.as_of):
        raise InvalidInput(
            f"cannot forecast as of {moment.isoformat()}: the tables know events from "
            f"{dataset.first_event.isoformat()} until {dataset.as_of.isoformat()}; choose a moment between these, "
            "or run `recsys data` for newer events"
        )
    return moment


def read_purchases(dataset: Dataset, *, before: pd.Timestamp) -> ShopPurchases:
    """Every purchase before a moment: 24 bytes each are held."""
    items = dataset.frame("items", ["item_id", "category"]).sort_values("item_id", ignore_index=True)
    item_ids: pd.Index[str] = pd.Index(items["item_id"], dtype=object)
    user_ids: pd.Index[str] = pd.Index(np.sort(dataset.frame("users", ["user_id"])["user_id"].to_numpy(object)))
    parts: list[tuple[_Array, _Array, _Array]] = [(np.empty(0, np.int64),) * 3]
    for piece in dataset.event_frames(["user_id", "item_id", "event_type", "timestamp"]):
        chosen = piece[(piece["event_type"] == "purchase") & (piece["timestamp"] < before)]
        codes = (
            ids.get_indexer(chosen[name].cat.categories)[chosen[name].cat.codes.to_numpy()]
            for name, ids in (("item_id", item_ids), ("user_id", user_ids))
        )
        parts.append((*codes, microseconds(chosen["timestamp"])))  # type: ignore[arg-type]
    item, user, times = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    first = pd.Timestamp(dataset.first_event).value // 1000
    sales = Sales(item, times, item_ids.to_numpy(object), first)
    categories = sales.grouped(items["category"].to_numpy(object))
    return ShopPurchases(
        items=sales,
        categories=categories,
        users=PurchaseDays(user, times, len(user_ids)),
        user_ids=user_ids.to_numpy(object),
        category_of=pd.Index(categories.names, dtype=object).get_indexer(pd.Index(items["category"], dtype=object)),
    )


def is_monday(moment: pd.Timestamp) -> bool:
    """Whether a moment is 00:00 UTC of a Monday, when each week's forecast for training is made."""
    return moment.weekday() == 0 and moment == moment.normalize()


def fit_timing(
    days: PurchaseDays,
    moments: Sequence[pd.Timestamp],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[TimingModel]:
    """What holds from each Monday among ``moments`` on, learned from what was before it.

    Args:
        days: when users bought. moments: ascending. seed: of the draw of users to learn from.
        progress: told Mondays done and in all.
    """
    everyone = np.arange(days.count)
    if days.count > _FITTED_USERS:
        everyone = np.sort(np.random.default_rng(seed).choice(days.count, _FITTED_USERS, replace=False))
    mondays = [moment for moment in moments if is_monday(moment)]
    made: list[TimingModel] = []
    told: list[tuple[_Array, _Array]] = []
    parameters: BgNbd | None = None
    for place, monday in enumerate(mondays):
        users, known = days.customers(monday, everyone)
        if parameters is None or place % _FIT_EVERY == 0:
            parameters = fit_bg_nbd(known, parameters)
        lately = told[-_PACE_WEEKS:]
        pace = Pace()
        if len(lately) == _PACE_WEEKS:
            pace = Pace.fit(np.concatenate([part[0] for part in lately]), np.concatenate([part[1] for part in lately]))
        made.append(TimingModel(monday, parameters, pace))
        # Of use from the next Monday on, by when it is known what came.
        told.append((parameters.probability(known), days.bought(monday, monday + _WEEK, users)))
        progress(place + 1, len(mondays))
    return made


def build_forecast_tables(
    folder: Path,
    dataset: Dataset,
    *,
    as_of: pd.Timestamp,
    seed: int = 0,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, int]:
    """Write the three tables, with a row for every Monday, each of the last 7 days and ``as_of``.

    Args:
        folder: the Feast repository's data folder. dataset: canonical tables.
        as_of: the newest moment, of :func:`valid_moment`. seed: of the draw of users to learn from.
        progress: told what is being forecast, series done and in all.

    Returns:
        Rows per table.
    """
    progress("forecasts: purchases", 0, 0)
    shop = read_purchases(dataset, before=as_of)
    moments = forecast_moments(pd.Timestamp(dataset.first_event), as_of)

    def told(name: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(f"forecasts: {name}", done, total)

    items = forecast_demand(shop.items, moments, progress=told("items"))
    categories = forecast_demand(shop.categories, moments, progress=told("categories"))
    tables = {
        "item_demand_forecast": _item_rows(items, categories, shop.category_of),
        "category_demand_forecast": _demand_rows(categories, "category").cast(_CATEGORY),
    }
    for name, table in tables.items():
        write_table(table, folder / f"{name}.parquet")
    timing = fit_timing(shop.users, moments, seed=seed, progress=told("users' pace"))
    path, rows = folder / "user_purchase_forecast.parquet", 0
    with write_tables({path: _USER}) as writers:
        for done, table in _user_rows(shop, moments, timing):
            writers[path].write_table(table, row_group_size=_GROUP)
            rows += table.num_rows
            progress("forecasts: users", done, shop.users.count)
    return {**{name: table.num_rows for name, table in tables.items()}, "user_purchase_forecast": rows}


def _demand_rows(demand: Demand, key: str) -> pa.Table:
    """One row for each series and moment with a forecast, by series, then moment."""
    lines, places = np.nonzero(~np.isnan(demand.values))
    names = pa.array([*(model.name for model in TABLE_MODELS), "none"])
    used = np.where(demand.classes == DORMANT, len(TABLE_MODELS), demand.models)
    return pa.table(
        {
            key: pa.array(demand.names, pa.string()).take(pa.array(lines)),
            "event_timestamp": _times(demand.moments).take(pa.array(places)),
            "purchases_next_7d": pa.array(demand.values[lines, places]),
            "demand_class": pa.array(CLASSES, pa.string()).take(pa.array(demand.classes[lines, places])),
            "model": names.take(pa.array(used[lines, places])),
        }
    )


def _item_rows(items: Demand, categories: Demand, category_of: _Array) -> pa.Table:
    table = _demand_rows(items, "item_id")
    lines, places = np.nonzero(~np.isnan(items.values))
    of_all = np.vstack([categories.values, np.full((1, len(items.moments)), np.nan, np.float32)])
    value = of_all[category_of[lines], places]
    # An item without a category has a null.
    column = pa.array(value, pa.float32(), mask=np.isnan(value))
    return table.append_column("category_purchases_next_7d", column).select(_ITEM.names).cast(_ITEM)


def _times(moments: Sequence[pd.Timestamp]) -> pa.Array:
    return pa.array([moment.value // 1000 for moment in moments], pa.int64()).cast(_EVENT_TIME[1])


def _user_rows(
    shop: ShopPurchases, moments: Sequence[pd.Timestamp], timing: Sequence[TimingModel]
) -> Iterator[tuple[int, pa.Table]]:
    """Rows by user, then moment, and how many users are done; who has been away for a year has no row."""
    holding = np.searchsorted([model.moment.value for model in timing], [moment.value for moment in moments], "right")
    for start in range(0, shop.users.count, _USERS):
        mine = np.arange(start, min(start + _USERS, shop.users.count))
        parts: list[tuple[_Array, ...]] = []
        for place, moment in enumerate(moments):
            if not holding[place]:
                continue  # before the first Monday nothing is learned
            model = timing[holding[place] - 1]
            users, known = shop.users.customers(moment, mine)
            lately = (known.age - known.last) * 7.0 <= LONGEST_DAYS
            users, known = users[lately], known.take(lately)
            chance = model.pace.apply(model.parameters.probability(known))
            days, active = model.parameters.days_to_next(known), model.parameters.active(known)
            parts.append((users, np.full(len(users), place), chance, days, active))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.empty(0)] * 5
        order = np.lexsort((columns[1], columns[0]))
        users, places, chance, days, active = (column[order] for column in columns)
        yield (
            int(mine[-1]) + 1,
            pa.table(
                [
                    pa.array(shop.user_ids, pa.string()).take(pa.array(users.astype(np.int64))),
                    _times(moments).take(pa.array(places.astype(np.int64))),
                    *(pa.array(column.astype(np.float32)) for column in (chance, days, active)),
                ],
                schema=_USER,
            ),
        )
