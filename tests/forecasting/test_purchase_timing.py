"""BG/NBD: a published answer, parameters found again, chances that hold in simulated shops, and days as they were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys_plugin.forecasting.purchase_timing import (
    LONGEST_DAYS,
    BgNbd,
    Customers,
    Pace,
    PurchaseDays,
    fit_bg_nbd,
)

#: The parameters that the paper estimates for its CDNOW customers (table 2).
CDNOW = BgNbd(r=0.243, alpha=4.414, a=0.793, b=2.426)


def customers(*rows: tuple[float, float, float]) -> Customers:
    """(repeats, weeks of the last, weeks of the moment) of each."""
    return Customers(*(np.array(column, float) for column in zip(*rows, strict=True)))


def simulated(model: BgNbd, count: int, weeks: float, ahead: float, seed: int) -> tuple[Customers, np.ndarray]:
    """Customers as the model says they behave, and the weeks until each one's next purchase; infinite for none."""
    generator = np.random.default_rng(seed)
    rate, stop = generator.gamma(model.r, 1 / model.alpha, count), generator.beta(model.a, model.b, count)
    repeats, last, following = np.zeros(count), np.zeros(count), np.full(count, np.inf)
    age = generator.uniform(weeks / 2, weeks, count)
    for number in range(count):
        now = 0.0
        while True:
            now += generator.exponential(1 / rate[number])
            if now > age[number]:
                following[number] = now - age[number]
                break
            repeats[number], last[number] = repeats[number] + 1, now
            if generator.random() < stop[number]:
                break
    following[following > ahead] = np.inf
    return Customers(repeats, last, age), following


def test_the_papers_example() -> None:
    # "Counting your customers" the easy way, the customer of its spreadsheet note: 2 repeats, the last in week 30.43 of
    # 38.86, expects 1.226 purchases in the next 39 weeks.
    known = customers((2, 30.43, 38.86))
    assert CDNOW.expected_purchases(known, 39.0)[0] == pytest.approx(1.226, abs=0.001)


def test_parameters_are_found_again_and_chances_hold() -> None:
    true = BgNbd(r=0.8, alpha=6.0, a=0.6, b=2.5)
    known, following = simulated(true, 4000, 80.0, 200.0, seed=0)
    found = fit_bg_nbd(known)
    assert found.r == pytest.approx(true.r, rel=0.15)
    assert found.alpha == pytest.approx(true.alpha, rel=0.2)
    assert found.a / (found.a + found.b) == pytest.approx(true.a / (true.a + true.b), rel=0.15)
    for weeks in (1.0, 4.0):
        chance = found.probability(known, weeks)
        error = np.sqrt((chance * (1 - chance)).sum()) / len(chance)
        assert abs(chance.mean() - (following <= weeks).mean()) < 4 * error
        # Not only on average: among those with the best chances too.
        best = np.argsort(chance)[-400:]
        spread = np.sqrt((chance[best] * (1 - chance[best])).sum()) / 400
        assert abs(chance[best].mean() - (following[best] <= weeks).mean()) < 4 * spread
    days = found.days_to_next(known)
    told = days < LONGEST_DAYS
    assert (following[told] * 7 <= days[told]).mean() == pytest.approx(0.5, abs=0.05)
    # A good start finds the same.
    again = fit_bg_nbd(known, found)
    assert again.r == pytest.approx(found.r, rel=0.02)


def test_chances_between_0_and_1_and_shrinkage_to_the_others() -> None:
    known = customers((0, 0.0, 0.0), (0, 0.0, 50.0), (40, 50.0, 50.5), (40, 10.0, 100.0), (1, 1.0, 2.0))
    chance, active, days = CDNOW.probability(known), CDNOW.active(known), CDNOW.days_to_next(known)
    assert ((chance > 0) & (chance < 1)).all() or chance[3] == 0.0
    assert ((active >= 0) & (active <= 1)).all()
    assert chance[2] > 0.4 > chance[0] > chance[1]
    # Forty purchases and then ninety weeks without: gone.
    assert active[3] < 1e-6
    assert days[3] == LONGEST_DAYS
    assert days[2] < 14
    # In a shop of frequent buyers one purchase means more than in one of rare ones.
    frequent = BgNbd(r=5.0, alpha=5.0, a=0.5, b=3.0)
    assert frequent.probability(customers((0, 0.0, 1.0)))[0] > 2 * CDNOW.probability(customers((0, 0.0, 1.0)))[0]


def test_fits_of_nearly_nothing_are_finite() -> None:
    for known in (Customers(*(np.empty(0),) * 3), customers((0, 0.0, 1.0)), customers((3, 5.0, 5.0))):
        found = fit_bg_nbd(known)
        assert all(np.isfinite(value) and value > 0 for value in (found.r, found.alpha, found.a, found.b))


def test_days_bought_on_are_told_as_they_were() -> None:
    def at(text: str) -> pd.Timestamp:
        return pd.Timestamp(text, tz="UTC")

    rows = [(1, "2024-01-02 09:00"), (1, "2024-01-02 18:00"), (1, "2024-01-09 08:00"), (0, "2024-01-05 12:00")]
    users = np.array([user for user, _ in rows])
    times = np.array([at(text).value // 1000 for _, text in rows])
    days = PurchaseDays(users, times, 3)
    found, known = days.customers(at("2024-01-09"))
    assert found.tolist() == [0, 1]
    assert known.repeats.tolist() == [0.0, 0.0]
    assert known.age.tolist() == [4 / 7, 1.0]
    # Two purchases of one day are one; a purchase at the moment is not known.
    assert days.customers(at("2024-01-09 08:00"))[1].repeats.tolist() == [0.0, 0.0]
    found, known = days.customers(at("2024-01-09 08:00:01"), np.array([1]))
    assert (found.tolist(), known.repeats.tolist(), known.last.tolist()) == ([1], [1.0], [1.0])
    everyone = np.array([0, 1, 2])
    assert days.bought(at("2024-01-05"), at("2024-01-09"), everyone).tolist() == [True, False, False]
    assert days.days_until_next(at("2024-01-05"), everyone).tolist() == [0.5, 4 + 1 / 3, np.inf]
    assert PurchaseDays(np.empty(0, np.int64), np.empty(0, np.int64), 2).customers(at("2024-01-09"))[0].tolist() == []


def test_the_present_pace_moves_chances_and_keeps_their_order() -> None:
    generator = np.random.default_rng(3)
    chance = generator.beta(1, 12, 5000)
    odds = chance / (1 - chance) * np.exp(0.7)
    came = generator.random(5000) < odds / (1 + odds)
    pace = Pace.fit(chance, came)
    assert pace.apply(chance).mean() == pytest.approx(came.mean(), rel=0.01)
    assert pace.scale == pytest.approx(1.0, abs=0.15)
    assert pace.offset == pytest.approx(0.7, abs=0.35)
    assert (np.diff(pace.apply(np.sort(chance))) >= 0).all()
    # What always or never came teaches nothing that would hold.
    assert Pace.fit(chance, np.zeros(5000, bool)) == Pace.fit(chance, np.ones(5000, bool)) == Pace()
    assert Pace().apply(chance) == pytest.approx(chance)
