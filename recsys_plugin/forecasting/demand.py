"""The demand of the coming week, as it could have been forecast at each of many moments.

Which model a class of series gets is decided at each moment anew, by what the models would have been wrong by in the
weeks before it (follow the leader): so nothing that a row says depends on anything at or after its moment, the choice
of the model included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.forecasting.models import MEAN, SEASONAL_NAIVE, TABLE_MODELS, Progress, forecasts
from recsys_plugin.forecasting.series import CLASSES, DORMANT, SHORT, Sales, demand_classes, first_weeks

__all__ = ["JUDGED_WEEKS", "Demand", "change_scales", "forecast_demand", "forecast_moments", "leaders"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Weeks whose errors decide which model a class gets.
JUDGED_WEEKS = 13
#: Days before the newest moment that have a moment of their own.
_DAILY = 7
#: What each class gets before there is any error to judge by.
_AT_FIRST = ("SES", "SES", "TSB", "TSB", MEAN, MEAN)
#: What a short series may get; a dormant one has 0, which no error changes.
_FOR_SHORT = [place for place, model in enumerate(TABLE_MODELS) if model.name in (SEASONAL_NAIVE, MEAN)]


@dataclass(frozen=True, slots=True)
class Demand:
    """Forecasts of S series at m moments.

    Attributes:
        names: object (str) [S], ascending. moments: of the forecasts, ascending.
        values: float32 [S, m], purchases expected in the 7 days from the moment on; NaN where the series had none yet.
        classes: int64 [S, m], positions in :data:`~recsys_plugin.forecasting.series.CLASSES`.
        models: int64 [S, m], positions in :data:`~recsys_plugin.forecasting.models.TABLE_MODELS`; of no meaning for
            a dormant series, whose forecast is 0.
    """

    names: _Array
    moments: tuple[pd.Timestamp, ...]
    values: _Array
    classes: _Array
    models: _Array


def forecast_moments(first: pd.Timestamp, as_of: pd.Timestamp) -> list[pd.Timestamp]:
    """Mondays 00:00 UTC after ``first``, the midnights of the last 7 days, and ``as_of`` itself, ascending."""
    mondays = pd.date_range(first.normalize(), as_of, freq="W-MON", inclusive="right")
    lately = pd.date_range(max(first, as_of - pd.Timedelta(days=_DAILY)).ceil("D"), as_of, freq="D")
    return sorted({*mondays, *lately, as_of})


def forecast_demand(
    sales: Sales, moments: Sequence[pd.Timestamp], *, progress: Progress = lambda done, total: None
) -> Demand:
    """Forecast each series at each moment, knowing only what was before it.

    Args:
        sales: the purchases. moments: ascending; a moment with no whole week before it has no forecast and is left out.
        progress: told series done and series in all.
    """
    chosen = [moment for moment in moments if sales.weeks(moment).shape[1]]
    mondays = [moment for moment in chosen if moment.weekday() == 0 and moment == moment.normalize()]
    size = len(sales.names)
    values = np.full((size, len(chosen)), np.nan, np.float32)
    classes = np.zeros((size, len(chosen)), np.int64)
    models = np.zeros_like(classes)
    lead = np.full((len(CLASSES), 1), 0, np.int64)
    lead[:, 0] = _first_choice()
    weeks_of: dict[pd.Timestamp, int] = {}
    if mondays:
        table = sales.weeks(mondays[-1])
        origins = np.arange(table.shape[1] + 1)
        found = forecasts(table, origins, TABLE_MODELS, progress=progress)
        kinds = demand_classes(table)
        lead = leaders(table, found, kinds)
        sold = first_weeks(table)
        weeks_of = {moment: table.shape[1] - (mondays[-1] - moment) // pd.Timedelta(days=7) for moment in mondays}
    lines = np.arange(size)
    for place, moment in enumerate(chosen):
        if moment in weeks_of:
            at = weeks_of[moment]
            classes[:, place] = kinds[:, at]
            models[:, place] = lead[classes[:, place], at]
            values[:, place] = np.where(sold < at, found[models[:, place], lines, at], np.nan)
            continue
        before = [weeks_of[monday] for monday in mondays if monday < moment]
        own = sales.weeks(moment)
        end = own.shape[1]
        classes[:, place] = demand_classes(own)[:, end]
        models[:, place] = lead[classes[:, place], before[-1] if before else 0]
        wanted = np.zeros((len(TABLE_MODELS), size, 1), bool)
        wanted[models[:, place], lines, 0] = True
        made = forecasts(own, [end], TABLE_MODELS, wanted=wanted)[..., 0]
        values[:, place] = np.where(first_weeks(own) < end, made[models[:, place], lines], np.nan)
    return Demand(sales.names, tuple(chosen), values, classes, models)


def leaders(table: _Array, found: _Array, classes: _Array, *, first: int = 0) -> _Array:
    """Which model each class gets at each origin: the one with the least scaled squared error before it.

    A squared error counts in units of the mean squared change from week to week of its own series so far, as in RMSSE
    (Makridakis, Spiliotis and Assimakopoulos 2022, "M5 accuracy competition"), so that large series do not
    decide alone.

    Args:
        table: float32 [S, W]. found: float32 [models, S, origins], the forecasts at origins ``first`` to ``first`` +
            origins - 1, models being :data:`~recsys_plugin.forecasting.models.TABLE_MODELS`.
        classes: int64 [S, W+1], of :func:`~recsys_plugin.forecasting.series.demand_classes`. first: the first origin.

    Returns:
        int64 [classes, origins], positions in the models.
    """
    scales = change_scales(table)
    origins = found.shape[2]
    lost = np.zeros((len(found), len(CLASSES), origins))
    for place in range(origins):
        at = first + place
        if at >= table.shape[1]:
            break
        known = np.flatnonzero(scales[:, at] > 0)
        error = (found[:, known, place] - table[known, at]) ** 2 / scales[known, at]
        for model in range(len(found)):
            lost[model, :, place] = np.bincount(classes[known, at], error[model], minlength=len(CLASSES))
    so_far = np.concatenate([np.zeros((*lost.shape[:2], 1)), np.cumsum(lost, axis=2)], axis=2)
    places = np.arange(origins)
    lately = so_far[..., places] - so_far[..., np.maximum(places - JUDGED_WEEKS, 0)]
    best: _Array = lately.argmin(0)
    best[SHORT] = lately[_FOR_SHORT, SHORT].argmin(0)
    best[SHORT] = np.array(_FOR_SHORT)[best[SHORT]]
    judged = lately.max(0) > 0
    judged[DORMANT] = False
    return np.where(judged, best, _first_choice()[:, None]).astype(np.int64)


def change_scales(table: _Array, power: float = 2.0) -> _Array:
    """The mean change from week to week since the first demand, as known at each origin, float64 [S, W+1].

    0 where there are fewer than two weeks.

    Args:
        table: float32 [S, W], demand by week. power: of the absolute changes: 2 for RMSSE, 1 for MASE.
    """
    first = first_weeks(table)
    steps = np.abs(np.diff(table.astype(np.float64), axis=1, prepend=0.0)) ** power
    steps[np.arange(table.shape[1])[None, :] <= first[:, None]] = 0.0
    total = np.concatenate([np.zeros((len(table), 1)), np.cumsum(steps, axis=1)], axis=1)
    count = np.arange(table.shape[1] + 1)[None, :] - first[:, None] - 1
    return np.where(count > 0, total / np.maximum(count, 1), 0.0)


def _first_choice() -> _Array:
    names = [model.name for model in TABLE_MODELS]
    return np.array([names.index(name) for name in _AT_FIRST])
