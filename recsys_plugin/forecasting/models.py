"""Forecasts of the next week from a weekly series, by the models of statsforecast.

Each model is asked for one step from what was known at the origin. Croston's method and its like smooth with fixed
constants, so the forecasts at all origins are the one-step fitted values of a single pass; the others are asked again
at each origin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_plugin.forecasting.series import DORMANT, SHORT, demand_classes, first_weeks

__all__ = ["MEAN", "MODELS", "SEASONAL_NAIVE", "TABLE_MODELS", "YEAR_NAIVE", "WeeklyModel", "forecasts"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: The reference: each day as the same day of the week before, which for seven days together is the last week.
SEASONAL_NAIVE = "seasonal naive, 7 days"
#: The other reference: the same week of the year before.
YEAR_NAIVE = "seasonal naive, 52 weeks"
#: The mean of all weeks since the first demand: what there is to say of a short series.
MEAN = "mean"
_YEAR = 52
#: Weeks of a moving average.
_AVERAGED = 4
#: Told origins done and origins in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class WeeklyModel:
    """A model by name.

    Attributes:
        name: what tables and reports call it. make: builds the statsforecast model; None for what numpy does.
        one_pass: whether its fitted values are its forecasts at each origin.
        dense_only: whether it is asked for smooth and erratic series only.
        in_tables: whether feature tables may use it; the others are too slow for that and stand in the back-test.
    """

    name: str
    make: Callable[[], Any] | None = None
    one_pass: bool = False
    dense_only: bool = False
    in_tables: bool = True


def _model(name: str, **options: Any) -> Callable[[], Any]:
    """Builds a model of statsforecast, which takes seconds to import."""

    def make() -> Any:
        from statsforecast import models

        return getattr(models, name)(**options)

    return make


#: Every model that the back-test compares. The smoothing constants of TSB are those that Teunter, Syntetos and Babai
#: (2011), "Intermittent demand: Linking forecasting to inventory obsolescence", found good for both probabilities and
#: sizes; Croston's variant is the bias-corrected one of Syntetos and Boylan (2005).
MODELS: tuple[WeeklyModel, ...] = (
    WeeklyModel(SEASONAL_NAIVE),
    WeeklyModel(YEAR_NAIVE, in_tables=False),
    WeeklyModel(MEAN),
    WeeklyModel("moving average, 4 weeks"),
    WeeklyModel("CrostonSBA", _model("CrostonSBA"), one_pass=True),
    WeeklyModel("TSB", _model("TSB", alpha_d=0.2, alpha_p=0.2), one_pass=True),
    WeeklyModel("ADIDA", _model("ADIDA")),
    WeeklyModel("IMAPA", _model("IMAPA")),
    WeeklyModel("SES", _model("SimpleExponentialSmoothingOptimized")),
    WeeklyModel("Theta", _model("Theta", season_length=1), dense_only=True, in_tables=False),
    WeeklyModel("AutoETS", _model("AutoETS", season_length=1), dense_only=True, in_tables=False),
)
#: Those that feature tables choose from.
TABLE_MODELS = tuple(model for model in MODELS if model.in_tables)


def forecasts(
    table: _Array,
    origins: Sequence[int] | _Array,
    models: Sequence[WeeklyModel],
    *,
    wanted: _Array | None = None,
    progress: Progress = lambda done, total: None,
) -> _Array:
    """The demand of the week after each origin, by each model.

    A short series has the mean of its weeks since its first demand and a dormant one has 0, whichever the model, but
    for the naive ones, which take what they look back to. A dense-only model leaves other series NaN.

    Args:
        table: float32 [S, W], demand by week. origins: numbers of weeks known, each 0 to W.
        models: which to ask.
        wanted: bool [models, S, origins], which forecasts to make, the others being NaN; all if None.
        progress: told series done and series in all.

    Returns:
        float32 [models, S, origins], at least 0; NaN where a model has no forecast.
    """
    lines = len(table)
    asked = np.asarray(origins, np.int64)
    classes = demand_classes(table)[:, asked]
    first = first_weeks(table)
    found = np.full((len(models), lines, len(asked)), np.nan, np.float32)
    sums = np.concatenate([np.zeros((lines, 1)), np.cumsum(table.astype(np.float64), axis=1)], axis=1)
    known = np.maximum(asked[None, :] - first[:, None], 1)
    fallback = np.where(classes == DORMANT, 0.0, sums[:, asked] / known)
    settled = classes < SHORT
    built = [model.make() if model.make else None for model in models]
    for place, model in enumerate(models):
        if model.make is None:
            found[place] = _naive(model.name, table, sums, asked, fallback, settled)
        else:
            found[place] = np.where(settled, np.nan, fallback)
            if model.dense_only:
                found[place] = np.nan
    for line in np.flatnonzero(settled.any(1)):
        series = np.ascontiguousarray(table[line, first[line] :], np.float32)
        for place, model in enumerate(models):
            if model.make is None:
                continue
            which = settled[line] & (classes[line] < 2) if model.dense_only else settled[line]
            if wanted is not None:
                which = which & wanted[place, line]
            columns = np.flatnonzero(which)
            if len(columns):
                ends = asked[columns] - first[line]
                found[place, line, columns] = _asked(built[place], model, series, ends)
        progress(int(line) + 1, lines)
    progress(lines, lines)
    if wanted is not None:
        found[~wanted] = np.nan
    return np.maximum(found, 0.0, out=found)


def _asked(model: Any, kind: WeeklyModel, series: _Array, ends: _Array) -> _Array:
    """What a statsforecast model says of the week after each of ``ends``, float32 [ends]."""
    if kind.one_pass:
        # One more week, whose value no forecast of it may know, for the forecast after the last to be a fitted value.
        longer = np.append(series[: ends.max()], np.float32(0.0))
        fitted: _Array = np.asarray(model.forecast(y=longer, h=1, fitted=True)["fitted"], np.float32)
        return fitted[ends]
    return np.array([model.forecast(y=series[:end], h=1)["mean"][0] for end in ends], np.float32)


def _naive(name: str, table: _Array, sums: _Array, asked: _Array, fallback: _Array, settled: _Array) -> _Array:
    """What needs no model: the last week, the same week of last year, or the mean of the last weeks."""
    padded = np.concatenate([np.zeros((len(table), _YEAR)), table], axis=1)
    if name == SEASONAL_NAIVE:
        last: _Array = padded[:, asked + _YEAR - 1]
        return last
    if name == YEAR_NAIVE:
        # There is no forecast before there is a year to look back to.
        year: _Array = np.where(asked >= _YEAR, padded[:, asked], np.nan)
        return year
    if name == MEAN:
        return fallback
    mean = (sums[:, asked] - sums[:, np.maximum(asked - _AVERAGED, 0)]) / np.clip(asked, 1, _AVERAGED)
    return np.where(settled, mean, fallback)
