"""How good the forecasts would have been: rolling origins, against seasonal naive forecasts and other simple ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.errors import InvalidInput
from recsys_plugin.forecasting.demand import JUDGED_WEEKS, change_scales, leaders
from recsys_plugin.forecasting.models import MEAN, MODELS, SEASONAL_NAIVE, TABLE_MODELS, YEAR_NAIVE, forecasts
from recsys_plugin.forecasting.purchase_timing import PurchaseDays
from recsys_plugin.forecasting.series import CLASSES, WEEK, demand_classes, first_weeks
from recsys_plugin.forecasting.tables import ShopPurchases, fit_timing, is_monday

__all__ = ["CHOSEN", "backtest", "backtest_demand", "backtest_timing"]

_Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[str, int, int], None]
#: What the feature tables serve: for each class the model that did best in the weeks before.
CHOSEN = "chosen by class"
#: What is told of series that no model is asked for: the others all say the mean, or 0.
_WITHOUT_MODEL = (CHOSEN, SEASONAL_NAIVE, YEAR_NAIVE, MEAN)
#: Days that the time to the next purchase is judged within.
_HORIZON_DAYS = 28.0
_BINS = 10


def backtest(
    shop: ShopPurchases,
    moments: list[pd.Timestamp],
    *,
    weeks: int = 13,
    seed: int = 0,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Forecast each of the last ``weeks`` whole weeks from what was known before it, and compare with what came.

    Args:
        shop: the purchases. moments: of :func:`~recsys_plugin.forecasting.demand.forecast_moments`.
        weeks: how many. seed: of the draw of users to learn from. progress: told what is forecast, done and in all.

    Returns:
        JSON: ``items`` and ``categories`` of :func:`backtest_demand`, ``users`` of :func:`backtest_timing`, each empty
        where there is nothing to forecast; ``weeks`` and ``as_of``.

    Raises:
        InvalidInput: if the data has too few weeks.
    """
    as_of = moments[-1]
    whole = shop.items.weeks(as_of).shape[1]
    if whole < weeks + 2:
        raise InvalidInput(
            f"a back-test of {weeks} weeks needs {weeks + 2} whole weeks of events, and there are {whole} before "
            f"{as_of.isoformat()}; ask for fewer with --weeks"
        )
    found: dict[str, Any] = {"as_of": as_of.isoformat(), "weeks": weeks}
    for name, sales in (("items", shop.items), ("categories", shop.categories)):
        found[name] = {}
        if len(sales.series):
            found[name] = backtest_demand(
                sales.weeks(as_of),
                weeks=weeks,
                progress=lambda done, total, name=name: progress(f"back-test: {name}", done, total),  # type: ignore[misc]
            )
    found["users"] = backtest_timing(
        shop.users,
        moments,
        weeks=weeks,
        seed=seed,
        progress=lambda done, total: progress("back-test: users", done, total),
    )
    return found


def backtest_demand(
    table: _Array, *, weeks: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Every model on the last ``weeks`` weeks of weekly series, one week ahead from each origin.

    MASE (Hyndman and Koehler 2006) and RMSSE (the M5 competition) are the errors in units of the mean change from week
    to week before the origin, absolute and squared; series that never changed have no unit and count in WAPE alone.
    WAPE is the sum of absolute errors by the sum of demand.

    Args:
        table: float32 [S, W], demand by week, W being more than ``weeks``. progress: told series done and in all.

    Returns:
        ``classes``: for each class and ``"all"``, ``forecasts`` (how many), ``demand`` and ``models``, which has
        ``mase``, ``rmsse``, ``wape`` and ``bias`` (mean error by mean demand) by model name; a model that is not asked
        for every series of a class is left out there. ``used``: for each class how often each model was chosen.
        ``weekly``: ``demand`` and each model's sum by week, for a plot.
    """
    width = table.shape[1]
    start, first = width - weeks, max(0, width - weeks - JUDGED_WEEKS)
    origins = np.arange(first, width)
    made = forecasts(table, origins, TABLE_MODELS, progress=progress)
    classes = demand_classes(table)
    lead = leaders(table, made, classes, first=first)
    late = np.arange(start, width)
    kinds, truth = classes[:, late], table[:, late].astype(np.float64)
    slow = [model for model in MODELS if not model.in_tables]
    values = {model.name: made[place][:, start - first :] for place, model in enumerate(TABLE_MODELS)}
    values |= dict(zip((model.name for model in slow), forecasts(table, late, slow, progress=progress), strict=True))
    picked = lead[kinds, late - first]
    values = {model.name: values[model.name] for model in MODELS}
    lines, places = np.indices(kinds.shape)
    values[CHOSEN] = made[:, :, start - first :][picked, lines, places]
    known = late[None, :] > first_weeks(table)[:, None]
    absolute, squared = change_scales(table, 1.0)[:, late], change_scales(table)[:, late]
    groups: dict[str, _Array] = {name: known & (kinds == code) for code, name in enumerate(CLASSES)}
    groups["all"] = known
    described = {}
    for name, inside in groups.items():
        if not inside.any():
            continue
        figures = {
            model: _figures(value[inside], truth[inside], absolute[inside], squared[inside])
            for model, value in values.items()
            if not np.isnan(value[inside]).any() and (name not in ("short", "dormant") or model in _WITHOUT_MODEL)
        }
        described[name] = {
            "forecasts": int(inside.sum()),
            "demand": float(truth[inside].sum()),
            "models": figures,
        }
    used = {
        name: {
            TABLE_MODELS[code].name: int(count)
            for code, count in enumerate(np.bincount(picked[groups[name]], minlength=len(TABLE_MODELS)))
            if count
        }
        for name in described
        if name not in ("all", "dormant")
    }
    sums = {
        model: np.where(known, value, 0.0).sum(0).tolist()
        for model, value in values.items()
        if not np.isnan(value[known]).any()
    }
    return {
        "series": int(known.any(1).sum()),
        "classes": described,
        "used": used,
        "weekly": {"demand": np.where(known, truth, 0.0).sum(0).tolist(), **sums},
    }


def _figures(value: _Array, truth: _Array, absolute: _Array, squared: _Array) -> dict[str, float | None]:
    error = value.astype(np.float64) - truth
    scaled = absolute > 0
    demand = truth.sum()
    return {
        "mase": float(np.mean(np.abs(error[scaled]) / absolute[scaled])) if scaled.any() else None,
        "rmsse": float(np.sqrt(np.mean(error[scaled] ** 2 / squared[scaled]))) if scaled.any() else None,
        "wape": float(np.abs(error).sum() / demand) if demand else None,
        "bias": float(error.sum() / demand) if demand else None,
    }


def backtest_timing(
    days: PurchaseDays,
    moments: list[pd.Timestamp],
    *,
    weeks: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The chances of a purchase within 7 days, and the days until it, on the last ``weeks`` Mondays with an outcome.

    Every user who had bought before the Monday counts. The references: for chances, the share of users who bought in
    the week before, and each user's own rate; for days, the time until his mean interval is over. Days are compared
    within 28: whoever does not buy by then counts as 28, forecast or real, so that no user is left out.

    Returns:
        ``forecasts``, ``bought`` (share), and by name ``log_loss``, ``brier``, ``mean``, and ``days_mae``;
        ``calibration``: of ten equal groups by chance, the mean chance and the share that bought; ``used_weeks``.
        Empty if there is no such Monday.
    """
    as_of = moments[-1]
    timing = fit_timing(days, moments, seed=seed, progress=progress)
    week = pd.Timedelta(microseconds=WEEK)
    mondays = [place for place, model in enumerate(timing) if is_monday(model.moment) and model.moment + week <= as_of]
    chosen = [place for place in mondays if place > 0][-weeks:]
    parts: dict[str, list[_Array]] = {}
    ages: dict[str, list[_Array]] = {}
    came: list[_Array] = []
    waited: list[_Array] = []
    for place in chosen:
        model = timing[place]
        users, known = days.customers(model.moment)
        if not len(users):
            continue
        raw = model.parameters.probability(known)
        rate = known.repeats + 1.0
        before = days.bought(model.moment - week, model.moment, users).mean()
        for name, chance in (
            ("BG/NBD with the present pace", model.pace.apply(raw)),
            ("BG/NBD", raw),
            ("each user's own rate", -np.expm1(-rate / (known.age + 1.0))),
            ("share of the week before", np.full(len(users), before)),
        ):
            parts.setdefault(name, []).append(chance)
        came.append(days.bought(model.moment, model.moment + week, users))
        if model.moment + pd.Timedelta(days=_HORIZON_DAYS) <= as_of:
            waited.append(np.minimum(days.days_until_next(model.moment, users), _HORIZON_DAYS))
            interval = np.where(known.repeats > 0, known.last / np.maximum(known.repeats, 1.0), np.inf) * 7.0
            over = np.maximum(interval - (known.age - known.last) * 7.0, 0.0)
            for name, value in (
                ("BG/NBD", model.parameters.days_to_next(known)),
                ("mean interval", over),
                ("never", np.full(len(users), np.inf)),
            ):
                ages.setdefault(name, []).append(np.minimum(value, _HORIZON_DAYS))
    if not came:
        return {}
    outcome = np.concatenate(came)
    chances = {name: np.concatenate(values) for name, values in parts.items()}
    best = chances["BG/NBD with the present pace"]
    real = np.concatenate(waited) if waited else np.empty(0)
    return {
        "used_weeks": len(came),
        "forecasts": len(outcome),
        "bought": float(outcome.mean()),
        "chances": {name: _chance_figures(value, outcome) for name, value in chances.items()},
        "days": {
            name: {"days_mae": float(np.abs(np.concatenate(values) - real).mean())} for name, values in ages.items()
        },
        "calibration": [
            {"chance": float(best[part].mean()), "bought": float(outcome[part].mean()), "users": len(part)}
            for part in np.array_split(np.argsort(best, kind="stable"), _BINS)
            if len(part)
        ],
    }


def _chance_figures(chance: _Array, outcome: _Array) -> dict[str, float]:
    inside = np.clip(chance, 1e-6, 1.0 - 1e-6)
    return {
        "log_loss": float(-np.mean(np.where(outcome, np.log(inside), np.log1p(-inside)))),
        "brier": float(np.mean((chance - outcome) ** 2)),
        "mean": float(chance.mean()),
    }
