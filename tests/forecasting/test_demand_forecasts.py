"""Forecasts of weekly demand: known answers, no knowledge of the future, and which model is chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys_plugin.forecasting.demand import change_scales, forecast_demand, forecast_moments, leaders
from recsys_plugin.forecasting.models import MEAN, MODELS, SEASONAL_NAIVE, TABLE_MODELS, YEAR_NAIVE, forecasts
from recsys_plugin.forecasting.series import CLASSES, DORMANT, SHORT, Sales, demand_classes

NAMES = [model.name for model in MODELS]
TABLE_NAMES = [model.name for model in TABLE_MODELS]


def only(name: str, series: list[float]) -> float:
    """The forecast of one model after a whole series."""
    (model,) = (model for model in MODELS if model.name == name)
    return float(forecasts(np.array([series], np.float32), [len(series)], [model])[0, 0, 0])


def test_known_answers() -> None:
    weeks = [float(week) for week in range(60)]
    assert only(SEASONAL_NAIVE, weeks) == 59.0
    assert only(YEAR_NAIVE, weeks) == 8.0
    assert only("moving average, 4 weeks", weeks) == 57.5
    assert only(MEAN, [0.0, 0.0, 3.0, 5.0]) == 4.0
    # Croston's method on 6 every third week: 6 / 3, less Syntetos and Boylan's bias of alpha / 2 = 5 %.
    assert only("CrostonSBA", [6.0, 0.0, 0.0] * 60) == pytest.approx(6.0 / 3.0 * 0.95, rel=0.02)
    for name in NAMES:
        assert only(name, [4.0] * 60) == pytest.approx(4.0 * (0.95 if name == "CrostonSBA" else 1.0), rel=1e-4), name
    # TSB alone forgets what is no longer sold.
    stopped = [2.0, 0.0] * 20 + [0.0] * 20
    assert only("TSB", stopped) < 0.05 < 0.5 < only("CrostonSBA", stopped)


def test_short_and_dormant_series_have_a_defined_answer() -> None:
    for model in TABLE_MODELS:
        if model.name != SEASONAL_NAIVE:
            assert only(model.name, [0.0, 0.0, 3.0, 0.0, 3.0]) == 2.0, model.name
        assert only(model.name, [5.0] * 4 + [0.0] * 26) == 0.0, model.name
        assert only(model.name, [0.0] * 30) == 0.0, model.name
        assert only(model.name, []) == 0.0, model.name


def test_no_forecast_knows_the_future() -> None:
    table = np.random.default_rng(1).poisson([[0.2], [0.6], [1.5], [6.0]], (4, 30)).astype(np.float32)
    whole = forecasts(table, range(31), MODELS)
    assert (whole[[NAMES.index(name) for name in TABLE_NAMES]] >= 0).all()
    for origin in (1, 9, 17, 30):
        alone = forecasts(table[:, :origin], [origin], MODELS)
        assert np.array_equal(alone[..., 0], whole[..., origin], equal_nan=True)
    dense = demand_classes(table) < 2
    assert (np.isnan(whole[NAMES.index("Theta")]) == ~dense).all()


def test_the_leader_is_who_was_least_wrong_before() -> None:
    # Demand alternates, so the last week is always wrong and the average of all is not.
    table = np.tile(np.array([1.0, 9.0], np.float32), (5, 20))
    made = forecasts(table, range(41), TABLE_MODELS)
    lead = leaders(table, made, demand_classes(table))
    smooth_or_erratic = demand_classes(table)[0, -1]
    chosen = TABLE_MODELS[lead[smooth_or_erratic, -1]].name
    losses = ((made[:, 0, 27:40] - table[0, 27:40]) ** 2).sum(1)
    assert chosen == TABLE_NAMES[int(losses.argmin())] != SEASONAL_NAIVE
    # A later surprise changes no earlier choice.
    shocked = table.copy()
    shocked[:, 30:] = 100.0
    again = leaders(shocked, forecasts(shocked, range(41), TABLE_MODELS), demand_classes(shocked))
    assert (again[:, :31] == lead[:, :31]).all()
    # Before any error there is a choice all the same, and short series choose between two.
    assert [TABLE_NAMES[place] for place in lead[:, 0]] == ["SES", "SES", "TSB", "TSB", MEAN, MEAN]
    assert {TABLE_NAMES[place] for place in lead[SHORT]} <= {MEAN, SEASONAL_NAIVE}
    assert {TABLE_NAMES[place] for place in lead[DORMANT]} == {MEAN}


def test_scales_are_changes_since_the_first_demand() -> None:
    scales = change_scales(np.array([[0.0, 0.0, 3.0, 5.0, 1.0]], np.float32))
    assert scales.tolist() == [[0.0, 0.0, 0.0, 0.0, 4.0, 10.0]]
    assert change_scales(np.array([[3.0, 5.0, 1.0]], np.float32), 1.0).tolist() == [[0.0, 0.0, 2.0, 3.0]]


def drawn_sales() -> tuple[Sales, pd.Timestamp]:
    generator = np.random.default_rng(2)
    first = pd.Timestamp("2024-01-04 09:30", tz="UTC")
    times = np.sort(generator.integers(0, 200 * 86_400, 900)) * 1_000_000 + first.value // 1000
    series = generator.integers(0, 12, 900) * generator.integers(0, 2, 900)
    names = np.array([f"item {number:02d}" for number in range(12)], object)
    return Sales(series.astype(np.int64), times, names, first.value // 1000), first


def test_rows_of_the_past_stay_as_they_are_when_time_goes_on() -> None:
    made, first = drawn_sales()
    early, late = (first + pd.Timedelta(days=days) for days in (151.3, 190.1))
    before, after = (forecast_demand(made, forecast_moments(first, as_of)) for as_of in (early, late))
    shared = sorted(set(before.moments) & set(after.moments))
    assert sum(moment.weekday() == 0 for moment in shared) > 15
    for moment in shared:
        one, other = before.moments.index(moment), after.moments.index(moment)
        assert np.array_equal(before.values[:, one], after.values[:, other], equal_nan=True)
        assert (before.models[:, one] == after.models[:, other]).all()
    # A series without any purchase before a moment has no row there.
    assert np.isnan(before.values[11, 0]) or before.classes[11, 0] != DORMANT
    assert before.values.shape == before.classes.shape == (12, len(before.moments))


def test_moments_are_mondays_then_days_then_now() -> None:
    first, as_of = pd.Timestamp("2024-01-03 10:00", tz="UTC"), pd.Timestamp("2024-02-01 12:00", tz="UTC")
    told = [moment.isoformat()[:16] for moment in forecast_moments(first, as_of)]
    days = [f"2024-01-{day}T00:00" for day in (26, 27, 28, 29, 30, 31)]
    assert told == [
        *(f"2024-01-{day}T00:00" for day in ("08", "15", "22")),
        *days,
        "2024-02-01T00:00",
        "2024-02-01T12:00",
    ]
    assert len(forecast_moments(as_of - pd.Timedelta(hours=1), as_of)) == 1
    assert len(CLASSES) == 6


def test_too_young_a_shop_has_no_forecast() -> None:
    made, first = drawn_sales()
    young = first + pd.Timedelta(days=6)
    assert forecast_demand(made, forecast_moments(first, young)).moments == ()
