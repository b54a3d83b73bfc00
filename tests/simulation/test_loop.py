"""The simulated shop and the loop in it: the click model is what it says, and learning pays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import InvalidInput
from recsys_plugin.off_policy import EvaluationOptions, ImpressionLog, evaluate_policy
from recsys_plugin.policy import BayesianLastLayer, EpsilonGreedy, GumbelTopK, NoExploration, ThompsonSampling
from recsys_plugin.simulation import Arm, LoopOptions, ShopOptions, SimulatedShop, run_arm
from recsys_plugin.simulation.comparison import BASELINE, LOOP, Comparison, mean_of
from recsys_plugin.simulation.loop import Round, impression_table

SMALL = ShopOptions(users=200, items=60, arrivals=5, pool=30, page=5)


@pytest.fixture(scope="module")
def explored() -> tuple[SimulatedShop, list[Round]]:
    """Two rounds of a shop that explores, and the shop."""
    shop = SimulatedShop(SMALL, 2, seed=1)
    arm = Arm("loop", GumbelTopK(0.5), retrains=True)
    return shop, run_arm(shop, arm, LoopOptions(rounds=2, visits=1200), seed=1)


def test_clicks_follow_the_click_model() -> None:
    shop, generator = SimulatedShop(SMALL, 1, seed=0), np.random.default_rng(0)
    users = np.zeros(40_000, np.int64)
    pages = np.tile(np.arange(5), (len(users), 1))
    found = shop.outcomes(users, pages, generator)
    expected = shop.appeal(np.array(0), np.arange(5)) * shop.examination(np.arange(5))
    error = np.sqrt(expected * (1 - expected) / len(users))
    assert (np.abs(found.click.mean(axis=0) - expected) < 4.5 * error).all()
    assert shop.examination(np.arange(3)).tolist() == pytest.approx([1.0, 2**-0.6, 3**-0.6])
    assert not (found.cart & ~found.click).any()
    assert not (found.purchase & ~found.cart).any()
    assert found.cart.sum() / found.click.sum() == pytest.approx(SMALL.cart, abs=0.02)
    assert found.purchase.sum() / found.cart.sum() == pytest.approx(SMALL.purchase, abs=0.04)


def test_items_come_and_go_and_candidates_are_of_those_there() -> None:
    shop, generator = SimulatedShop(SMALL, 3, seed=0), np.random.default_rng(0)
    assert shop.active(0).tolist() == list(range(60))
    assert shop.active(2).tolist() == list(range(10, 70))
    found = shop.candidates(2, np.arange(50), generator)
    assert found.shape == (50, 30)
    assert found.min() >= 10
    assert found.max() < 70
    assert all(len(set(line)) == 30 for line in found.tolist())


def test_a_seed_gives_the_same_rounds_and_arms_the_same_visitors(explored: tuple[SimulatedShop, list[Round]]) -> None:
    shop, served = explored
    options = LoopOptions(rounds=2, visits=1200)
    again = run_arm(SimulatedShop(SMALL, 2, seed=1), Arm("x", GumbelTopK(0.5), retrains=True), options, seed=1)
    assert all((one.pages == other.pages).all() for one, other in zip(served, again, strict=True))
    assert [one.click_rate for one in served] == [one.click_rate for one in again]
    frozen = run_arm(shop, Arm("frozen", NoExploration(), retrains=False), options, seed=1)
    assert all((one.users == other.users).all() for one, other in zip(served, frozen, strict=True))
    assert all((one.pools == other.pools).all() for one, other in zip(served, frozen, strict=True))
    assert (served[0].logits == frozen[0].logits).all()
    assert not (served[1].logits == frozen[1].logits).all()


@pytest.mark.parametrize("policy", [GumbelTopK(0.3), EpsilonGreedy(0.3)], ids=lambda policy: policy.name)
@pytest.mark.parametrize("model", ["item-position", "cascade"])
def test_off_policy_intervals_hold_the_known_truth(
    explored: tuple[SimulatedShop, list[Round]], policy: GumbelTopK | EpsilonGreedy, model: str
) -> None:
    shop, served = explored
    log = ImpressionLog.of_table(impression_table(served[1], GumbelTopK(0.5)), "click")
    estimators = ("ips", "snips", "dr", "sndr") if model == "item-position" else ("ips", "snips")
    found = evaluate_policy(log, policy, EvaluationOptions(model=model, estimators=estimators, level=0.99))  # type: ignore[arg-type]
    examined = shop.examination(np.arange(SMALL.page))
    truth = np.mean(
        [
            (policy.marginals(logits, SMALL.page) * examined * shop.appeal(user, pool)[:, None]).sum() / SMALL.page
            for user, pool, logits in zip(served[1].users, served[1].pools, served[1].logits, strict=True)
        ]
    )
    for each in found.estimates:
        assert each.low <= truth <= each.high
    assert found.pages == 1200
    assert found.decisions == 6000
    assert found.logged_value == served[1].click_rate


def test_what_the_shop_cannot_run_is_refused() -> None:
    shop = SimulatedShop(SMALL, 1, seed=0)
    with pytest.raises(InvalidInput, match="2 rounds in a shop that was made for 1"):
        run_arm(shop, Arm("a", NoExploration(), retrains=False), LoopOptions(rounds=2), seed=0)
    thompson = ThompsonSampling(BayesianLastLayer.prior(("a",), 1.0))
    with pytest.raises(InvalidInput, match="needs features"):
        run_arm(shop, Arm("a", thompson, retrains=False), LoopOptions(rounds=1), seed=0)
    with pytest.raises(InvalidInput, match="a page of 200 from a pool of 100"):
        ShopOptions(page=200)
    with pytest.raises(InvalidInput, match="visits is 0"):
        LoopOptions(visits=0)


def test_ahead_from_is_the_round_from_which_every_seed_stays_ahead() -> None:
    frozen = np.full((2, 4), 0.1)
    for lead, first in (
        ([[1, 1, 1, 1], [1, 1, 1, 1]], 1),
        ([[-1, 1, 1, 1], [1, -1, 1, 1]], 3),
        ([[1, 1, 1, 1], [1, 1, 1, -1]], None),
        ([[0, 1, 1, 1], [1, 1, 1, 1]], 2),
    ):
        rates = {BASELINE: frozen, LOOP: frozen + 0.01 * np.array(lead)}
        assert Comparison((0, 1), rates, {}, ()).ahead_from() == first
    mean = mean_of(np.array([1.0, 2.0, 3.0]))
    assert mean.value == 2.0
    assert mean.high - mean.value == pytest.approx(4.3027 / np.sqrt(3), rel=1e-3)  # t with two degrees of freedom


def test_the_benchmark_draws_writes_and_judges(tmp_path: Path) -> None:
    report, plot = tmp_path / "loop.json", tmp_path / "loop.png"
    command = ["bench", "loop", "--seeds", "2", "--rounds", "3", "--visits", "500"]
    done = CliRunner().invoke(recsys, [*command, "--json", str(report), "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    written = json.loads(report.read_text())
    assert np.array(written["click_rate"]["loop"]).shape == (2, 3)
    assert (np.array(written["click_rate"]["loop"])[:, -1] > np.array(written["click_rate"]["frozen"])[:, -1]).all()
    assert written["ahead_from_round"] <= 3
    assert len(written["foretold"]) == 2
    assert plot.read_bytes().startswith(b"\x89PNG")
