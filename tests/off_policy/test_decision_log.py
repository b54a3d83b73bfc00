"""From an impression log to estimates: what is read, what is refused, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import DataError, InvalidInput, NoOverlap
from recsys_plugin.off_policy import EvaluationOptions, ImpressionLog, evaluate_policy, read_log
from recsys_plugin.policy import BayesianLastLayer, ExplorationPolicy, GumbelTopK, ThompsonSampling, parse_exploration


def table_of(policy: ExplorationPolicy, pages: int, *, seed: int = 0, k: int = 3) -> pd.DataFrame:
    """Pages of pools of 5 to 8 candidates with features a and b; clicks depend on the score and the position."""
    generator = np.random.default_rng(seed)
    parts = []
    for page in range(pages):
        pool = int(generator.integers(5, 9))
        scores = generator.uniform(0.05, 0.6, pool)
        logits = np.log(scores / 1.4 / (1 - scores / 1.4))
        features = generator.normal(size=(pool, 2))
        choice = policy.choose(logits, k, generator, features=features)
        position, propensity, click = (np.full(pool, np.nan) for _ in range(3))
        position[choice.positions] = np.arange(1, k + 1)
        propensity[choice.positions] = choice.propensities
        click[choice.positions] = generator.random(k) < scores[choice.positions] / np.arange(1, k + 1)
        parts.append(
            pd.DataFrame(
                {
                    "request_id": f"r{page}",
                    "item_id": [f"i{item}" for item in range(pool)],
                    "position": position,
                    "propensity": propensity,
                    "score": scores,
                    "a": features[:, 0],
                    "b": features[:, 1],
                    "policy": policy.name,
                    "click": click,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return table_of(GumbelTopK(0.5), 200)


def test_the_order_of_rows_says_nothing(table: pd.DataFrame) -> None:
    shuffled = table.sample(frac=1.0, random_state=1)
    options = EvaluationOptions(estimators=("ips", "snips"))
    log, other = (ImpressionLog.of_table(each, "click") for each in (table, shuffled))
    assert log.shown.tolist() == other.shown.tolist() == [3] * 200
    found = [evaluate_policy(each, GumbelTopK(0.2), options).estimates for each in (log, other)]
    for one, again in zip(*found, strict=True):
        assert again.value == pytest.approx(one.value, rel=1e-9)
        assert (again.low, again.high) == pytest.approx((one.low, one.high), rel=1e-9)


def test_the_logging_policy_is_worth_what_was_logged(table: pd.DataFrame) -> None:
    log = ImpressionLog.of_table(table, "click")
    for model in ("item-position", "cascade", "page"):
        options = EvaluationOptions(model=model, estimators=("ips", "snips"))
        found = evaluate_policy(log, GumbelTopK(0.5), options)
        for each in found.estimates:
            assert each.value == pytest.approx(found.logged_value)
            assert each.mean_weight == pytest.approx(1.0)
            assert each.effective_sample_size == pytest.approx(600)


def test_logged_marginals_are_used_where_they_are_there(table: pd.DataFrame) -> None:
    log = ImpressionLog.of_table(table, "click")
    marginal = np.full(len(table), np.nan)
    rows = np.flatnonzero(table["position"].notna())
    for _, page in table.groupby("request_id", sort=False):
        logits = ImpressionLog.of_table(page, "click").logits  # sorted: shown ones first
        shown = page[page["position"].notna()].sort_values("position").index
        marginal[shown] = GumbelTopK(0.5).marginals(logits, 3)[:3].diagonal()
    told = ImpressionLog.of_table(table.assign(position_propensity=marginal).drop(columns="policy"), "click")
    assert np.isfinite(marginal[rows]).all()
    options = EvaluationOptions(estimators=("ips",))
    policy = parse_exploration("epsilon:0.2")
    assert evaluate_policy(told, policy, options).estimates == evaluate_policy(log, policy, options).estimates
    neither = ImpressionLog.of_table(table.drop(columns="policy"), "click")
    with pytest.raises(DataError, match="column 'position_propensity': the model item-position needs it"):
        evaluate_policy(neither, policy, options)
    assert evaluate_policy(neither, policy, EvaluationOptions(model="cascade", estimators=("ips",))).pages == 200


def test_a_log_of_thompson_sampling_is_evaluated_by_its_features(tmp_path: Path) -> None:
    path = tmp_path / "layer.npz"
    BayesianLastLayer.prior(("a", "b"), 0.5).save(path)
    policy = parse_exploration(f"thompson:{path}")
    log = ImpressionLog.of_table(table_of(policy, 60), "click")
    found = evaluate_policy(log, policy, EvaluationOptions(model="cascade", estimators=("snips",)))
    assert found.estimates[0].value == pytest.approx(found.logged_value)
    other = ThompsonSampling(BayesianLastLayer.prior(("a", "c"), 0.5))
    with pytest.raises(DataError, match=r"column 'c': thompson takes it as a feature"):
        evaluate_policy(log, other, EvaluationOptions(model="cascade", estimators=("ips",)))


def test_deterministic_logs_say_where_they_are_silent() -> None:
    log = ImpressionLog.of_table(table_of(parse_exploration("none"), 100, k=1), "click")
    found = evaluate_policy(log, parse_exploration("epsilon:0.5"), EvaluationOptions(estimators=("snips",)))
    assert found.estimates[0].mean_weight < 0.7
    assert any("never shows some of what this policy would" in note for note in found.notes)
    worst = table_of(parse_exploration("none"), 50, k=1)
    worst["score"] = 1.4 - worst["score"]  # now what was shown is the worst of each pool
    with pytest.raises(NoOverlap, match="none of the 50 decisions"):
        evaluate_policy(
            ImpressionLog.of_table(worst.drop(columns="policy"), "click"), parse_exploration("none"),
            EvaluationOptions(estimators=("ips",)),
        )  # fmt: skip


def test_a_log_without_the_candidates_not_shown_is_refused(table: pd.DataFrame) -> None:
    log = ImpressionLog.of_table(table[table["position"].notna()], "click")
    with pytest.raises(DataError, match=r"request r0, position 1: logged is .* over the 3 candidates logged"):
        evaluate_policy(log, GumbelTopK(0.2))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("propensity", 0.0, r"column 'propensity', row 3: .*0\.0.* is no propensity in \(0, 1\]"),
        ("propensity", np.nan, r"column 'propensity', row 3"),
        ("propensity", 1.5, r"column 'propensity', row 3"),
        ("position", 7.0, r"column 'position', row 3: .* leaves a gap or is taken"),
        ("position", 1.0, r"column 'position', row 3: .* leaves a gap or is taken"),
        ("position", 1.5, r"column 'position', row 3: .* is no position"),
        ("position", 0.0, r"column 'position', row 3: .* is no position"),
        ("click", np.nan, r"column 'click', row 3: .* is no reward"),
        ("score", np.nan, r"column 'score', row 3: .* is no served score"),
        ("score", -3.0, r"column 'score', row 3: .* is no served score"),
        ("item_id", "i0", r"column 'item_id', row 3: 'i0' is on the page twice"),
        ("policy", "none", r"column 'policy', row 3: 'none' is null or not that of"),
        ("request_id", None, r"column 'request_id', row 3: None is null"),
    ],
)
def test_malformed_logs_are_refused_with_the_row(column: str, value: Any, reason: str) -> None:
    good = pd.DataFrame(
        {
            "request_id": ["r"] * 4,
            "item_id": ["i0", "i1", "i2", "i3"],
            "position": [1.0, np.nan, 2.0, np.nan],
            "propensity": [0.5, np.nan, 0.5, np.nan],
            "score": [0.1, 0.2, 0.3, 0.4],
            "policy": ["gumbel:1"] * 4,
            "click": [1.0, np.nan, 0.0, np.nan],
        }
    )
    ImpressionLog.of_table(good, "click")
    bad = good.copy()
    bad.loc[2, column] = value
    with pytest.raises(DataError, match=reason):
        ImpressionLog.of_table(bad, "click", file="log.parquet")


def test_what_is_missing_is_named(table: pd.DataFrame, tmp_path: Path) -> None:
    for column in ("request_id", "item_id", "position", "propensity", "click", "score"):
        with pytest.raises(DataError, match=f"column '{column}': the column is missing"):
            ImpressionLog.of_table(table.drop(columns=column), "click")
    with pytest.raises(DataError, match="the log is empty"):
        ImpressionLog.of_table(table.iloc[:0], "click")
    with pytest.raises(InvalidInput, match="reward 'view'"):
        ImpressionLog.of_table(table, "view")
    (tmp_path / "log.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"log\.parquet: no Parquet table"):
        read_log(tmp_path / "log.parquet", "click")
    log = ImpressionLog.of_table(table, "click")
    with pytest.raises(InvalidInput, match="with cascade take ips or snips"):
        evaluate_policy(log, GumbelTopK(0.2), EvaluationOptions(model="cascade"))
    with pytest.raises(DataError, match="column 'price'"):
        evaluate_policy(log, GumbelTopK(0.2), EvaluationOptions(features=("price",)))


def test_pages_that_rules_rearranged_are_left_out(table: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    kinds = np.where(table["request_id"] == "r3", "approximate", "exact")
    table.assign(propensity_kind=kinds).to_parquet(path)
    log = read_log(path, "click")
    assert len(log) == 199
    assert "r3" not in log.request_ids
    table.assign(propensity_kind="approximate").to_parquet(path)
    with pytest.raises(DataError, match="rules rearranged every page"):
        read_log(path, "click")


def test_the_command_prints_a_table_and_writes_json(table: pd.DataFrame, tmp_path: Path) -> None:
    log, report = tmp_path / "log.parquet", tmp_path / "report.json"
    table.to_parquet(log)
    command = ["evaluate", "off-policy", str(log), "--policy", "epsilon:0.2", "--policy", "gumbel:0.5"]
    done = CliRunner().invoke(recsys, [*command, "--json", str(report)])
    assert done.exit_code == 0, done.output
    written = json.loads(report.read_text())["evaluations"]
    assert [one["policy"] for one in written] == ["epsilon:0.2", "gumbel:0.5"]
    assert [each["estimator"] for each in written[0]["estimates"]] == ["ips", "snips", "dr", "sndr"]
    assert f"{written[0]['estimates'][0]['value']:.5f}" in done.output
    expected = evaluate_policy(read_log(log, "click"), parse_exploration("epsilon:0.2"))
    assert written[0] == json.loads(json.dumps(expected.document()))
    drawn = CliRunner().invoke(recsys, [*command, "--bootstrap", "--model", "cascade", "--json", "-"])
    assert drawn.exit_code == 0, drawn.output
    assert CliRunner().invoke(recsys, [*command[:4], "gumbel:0"]).exit_code == 2
    worst = table_of(parse_exploration("none"), 20, k=1)
    worst["score"] = 1.4 - worst["score"]
    worst.drop(columns="policy").to_parquet(log)
    assert CliRunner().invoke(recsys, ["evaluate", "off-policy", str(log), "--policy", "none"]).exit_code == 3
