"""The back-test: figures worked out by hand, and shops in which it is known who must win."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_plugin.errors import InvalidInput
from recsys_plugin.forecasting.backtest import CHOSEN, backtest, backtest_demand, backtest_timing
from recsys_plugin.forecasting.demand import forecast_moments
from recsys_plugin.forecasting.models import SEASONAL_NAIVE
from recsys_plugin.forecasting.purchase_timing import PurchaseDays
from recsys_plugin.forecasting.report import demand_lines, write_backtest
from recsys_plugin.forecasting.series import Sales
from recsys_plugin.forecasting.tables import ShopPurchases

FIRST = pd.Timestamp("2024-01-01", tz="UTC")


def test_figures_by_hand() -> None:
    # 10, 12, 10, 12 …: the last week is 2 off each time, and so is every change before: MASE and RMSSE are 1.
    found = backtest_demand(np.tile(np.array([10.0, 12.0], np.float32), (3, 20)), weeks=4)
    assert found["series"] == 3
    naive = found["classes"]["smooth"]["models"][SEASONAL_NAIVE]
    assert naive["mase"] == pytest.approx(1.0)
    assert naive["rmsse"] == pytest.approx(1.0)
    assert naive["wape"] == pytest.approx(2 / 11)
    assert naive["bias"] == pytest.approx(0.0)
    assert found["classes"]["all"]["forecasts"] == 12
    assert found["weekly"]["demand"] == [30.0, 36.0, 30.0, 36.0]
    assert found["weekly"][SEASONAL_NAIVE] == [36.0, 30.0, 36.0, 30.0]
    assert found["classes"]["smooth"]["models"][CHOSEN]["mase"] < 0.7
    # A series that never changes has no unit for its errors.
    constant = backtest_demand(np.full((1, 20), 3.0, np.float32), weeks=2)["classes"]["all"]["models"][CHOSEN]
    assert constant == {"mase": None, "rmsse": None, "wape": 0.0, "bias": 0.0}


def test_what_is_chosen_beats_seasonal_naive_where_demand_is_noise() -> None:
    generator = np.random.default_rng(0)
    rates = np.exp(generator.normal(0.0, 1.2, (150, 1)))
    table = generator.poisson(rates, (150, 60)).astype(np.float32)
    found = backtest_demand(table, weeks=8)
    assert {"smooth", "intermittent"} <= set(found["classes"])
    for name, group in found["classes"].items():
        models = group["models"]
        if name not in ("short", "dormant"):
            assert models[CHOSEN]["rmsse"] < 0.92 * models[SEASONAL_NAIVE]["rmsse"], name
    assert "Theta" in found["classes"]["smooth"]["models"]
    assert "Theta" not in found["classes"]["all"]["models"]
    assert sum(found["used"]["smooth"].values()) == found["classes"]["smooth"]["forecasts"]
    names = [row[2] for row in demand_lines(found, all_models=False)]
    assert names[0] == CHOSEN
    assert set(names) == {CHOSEN, SEASONAL_NAIVE, "seasonal naive, 52 weeks"}


def purchases(users: int, days: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Poisson purchases at rates of each user's own; a third stop for good half-way."""
    generator = np.random.default_rng(seed)
    rates = generator.gamma(1.0, 0.08, users)
    counts = generator.poisson(rates * days)
    who = np.repeat(np.arange(users), counts)
    when = generator.uniform(0, days * 86_400, len(who))
    kept = (who % 3 > 0) | (when < days * 43_200)
    order = np.argsort(when[kept], kind="stable")
    return who[kept][order], (FIRST.value // 1000 + when[kept][order] * 1e6).astype(np.int64)


def test_chances_are_better_than_the_naive_ones_and_calibrated() -> None:
    who, when = purchases(600, 300, seed=1)
    days = PurchaseDays(who, when, 600)
    found = backtest_timing(days, forecast_moments(FIRST, FIRST + pd.Timedelta(days=300)), weeks=10)
    chances = found["chances"]
    best = chances["BG/NBD with the present pace"]
    assert best["log_loss"] < chances["each user's own rate"]["log_loss"]
    assert best["log_loss"] < 0.95 * chances["share of the week before"]["log_loss"]
    assert best["mean"] == pytest.approx(found["bought"], rel=0.1)
    assert found["days"]["BG/NBD"]["days_mae"] < min(
        found["days"][name]["days_mae"] for name in ("mean interval", "never")
    )
    assert found["used_weeks"] == 10
    for part in found["calibration"]:
        spread = np.sqrt(part["chance"] * (1 - part["chance"]) / part["users"])
        assert abs(part["chance"] - part["bought"]) < 5 * spread + 0.02
    assert backtest_timing(days, [FIRST + pd.Timedelta(days=3)], weeks=2) == {}


def test_a_whole_shop_and_its_report(tmp_path: Path) -> None:
    who, when = purchases(80, 150, seed=2)
    items = Sales(who % 10, when, np.array([f"item {number}" for number in range(10)], object), FIRST.value // 1000)
    groups = np.array(["tea", "mugs"] * 5, object)
    shop = ShopPurchases(items, items.grouped(groups), PurchaseDays(who, when, 80), np.arange(80).astype(str), groups)
    moments = forecast_moments(FIRST, FIRST + pd.Timedelta(days=150))
    found = backtest(shop, moments, weeks=3)
    assert found["items"]["series"] == 10
    assert found["categories"]["series"] == 2
    assert found["items"]["weekly"]["demand"] == found["categories"]["weekly"]["demand"]
    path = write_backtest(tmp_path / "report", found)
    text = path.read_text(encoding="utf-8")
    assert "| all | 30 | chosen by class |" in text
    assert "BG/NBD" in text
    assert json.loads((path.parent / "backtest.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    assert (path.parent / "backtest.png").read_bytes().startswith(b"\x89PNG")
    nothing = Sales(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, object), FIRST.value // 1000)
    bare = ShopPurchases(items, nothing, PurchaseDays(*(np.empty(0, np.int64),) * 2, 0), np.empty(0, object), groups)
    write_backtest(tmp_path / "bare", {**backtest(bare, moments, weeks=2)})
    with pytest.raises(InvalidInput, match="a back-test of 20 weeks needs 22 whole weeks of events, and there are 21"):
        backtest(shop, moments, weeks=20)
