"""Requests like those of training have not drifted; what moves is named: features, scores, calibration, catalogue."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from shops import Shop

from recsys_plugin.checks.distributions import Bins, Sample
from recsys_plugin.checks.drift import (
    DriftLimits,
    calibration_drift,
    drift_document,
    feature_drift,
    growth,
    read_outcomes,
    require_no_drift,
    score_drift,
)
from recsys_plugin.checks.drift_run import serving_version
from recsys_plugin.checks.reference import read_reference
from recsys_plugin.checks.served import ServedModel, exported_model
from recsys_plugin.cli._group import recsys
from recsys_plugin.errors import CheckFailed, ConfigurationError, InvalidInput
from recsys_plugin.report.checks import drift_page
from recsys_plugin.training.frames import read_frames
from recsys_plugin.training.packing import UserTensors

_MOMENT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def served_model(small_shop: Shop) -> ServedModel:
    settings = small_shop.settings
    model = exported_model(settings.state, settings.model_repository, serving_version(settings))
    assert model is not None
    return model


@pytest.fixture(scope="module")
def reference(small_shop: Shop) -> dict[str, Any]:
    return dict(read_reference(small_shop.settings.state, serving_version(small_shop.settings)))


@pytest.fixture(scope="module")
def requests(small_shop: Shop) -> tuple[UserTensors, Any]:
    """Some of the moments that the model was trained on, and unix seconds of them."""
    train = read_frames(small_shop.settings.state / "training" / "frames").train
    lines = np.sort(np.random.default_rng(3).choice(len(train.users), 1000, replace=False))
    moments = train.contexts.entities["event_timestamp"].iloc[lines]
    return train.users.take(lines), moments.dt.tz_localize(None).to_numpy("datetime64[us]").astype(np.int64) / 1e6


def document(features: list[dict[str, Any]], limits: DriftLimits | None = None, **more: Any) -> dict[str, Any]:
    told = {"scores": {"note": ""}, "calibration": {"judged": False, "note": ""}}
    grown = growth({"items": 3, "users": 2}, ["a", "b", "c"], ["a", "b", "c"], 2)
    return drift_document(
        limits or DriftLimits(),
        features=features,
        **{**told, "grown": grown, **more},
        requests=len(features) and 1,
        skipped={},
        source="test",
    )


def test_the_reference_is_small_and_describes_the_training(
    small_shop: Shop, served_model: ServedModel, reference: dict[str, Any]
) -> None:
    path = small_shop.settings.state / "export" / "references" / f"{serving_version(small_shop.settings)}.json"
    assert path.stat().st_size < 200_000
    assert reference["contract"] == served_model.contract.fingerprint
    assert list(reference["features"]) == [spec.reference for spec in served_model.contract.stored_features]
    assert all(sum(known["shares"]) == pytest.approx(1.0) for known in reference["features"].values())
    assert set(reference["score_weights"]) == {"click", "cart", "purchase"}
    # The calibration was fitted on the same validation.
    assert 0.5 < reference["calibration"]["ratio"] < 2.0
    bins = Bins.from_dict(reference["scores"]["bins"])
    means = np.array(reference["scores"]["positions"]) @ np.arange(len(bins))
    assert (np.diff(means) <= 0).all(), "scores fall from position to position"
    with pytest.raises(ConfigurationError, match="recsys export --force"):
        read_reference(small_shop.settings.state, 99)


def test_requests_of_the_training_have_not_drifted(
    served_model: ServedModel, reference: dict[str, Any], requests: tuple[UserTensors, Any]
) -> None:
    found = feature_drift(reference, served_model.contract, *requests)
    told = document(found)
    assert told["failed"] == told["warned"] == {}
    assert max(one["psi"] for one in found) < 0.05
    require_no_drift(told)
    assert "Nothing moved" in drift_page(told)


def test_what_moved_is_named(
    served_model: ServedModel, reference: dict[str, Any], requests: tuple[UserTensors, Any]
) -> None:
    users, moments = requests
    slots = served_model.contract.slots
    floats, strings, ints = users.user_float.copy(), users.user_string.copy(), users.user_int.copy()
    floats[:, slots["user_statistics:spend_90d"].offset] *= 3.0
    strings[:300, slots["user_profile:country"].offset] = "AT"
    # Every time moves with its request, which changes no age; but nobody has a first purchase any more.
    moved = moments + 86_400
    for spec in served_model.contract.stored_features:
        if spec.element == "UNIX_TIMESTAMP":
            slot = slots[spec.reference]
            columns = ints[:, slot.offset : slot.offset + slot.width]
            columns[columns != 0] += 86_400
    ints[:, slots["user_statistics:first_purchase_at"].offset] = 0
    changed = replace(users, user_float=floats, user_string=strings, user_int=ints)
    found = {one["feature"]: one for one in feature_drift(reference, served_model.contract, changed, moved)}
    told = document(list(found.values()))
    assert set(told["failed"]) == {
        "user_statistics:spend_90d",
        "user_profile:country",
        "user_statistics:first_purchase_at",
    }
    assert found["user_profile:country"]["new"] == ["AT"]
    assert found["user_profile:country"]["new_categories"] == 0.3
    assert found["user_statistics:first_purchase_at"]["missing_now"] == 1.0
    with pytest.raises(CheckFailed, match="user_profile:country"):
        require_no_drift(told)
    page = drift_page(told)
    assert "user_statistics:spend_90d" in page
    assert "AT" in page
    ignored = document(list(found.values()), DriftLimits(ignored=frozenset(told["failed"])))
    assert ignored["failed"] == {}


def test_little_drift_of_few_requests_is_not_judged(
    served_model: ServedModel, reference: dict[str, Any], requests: tuple[UserTensors, Any]
) -> None:
    users, moments = requests
    largest = 0.0
    for seed in range(5):
        lines = np.random.default_rng(seed).choice(len(users), 15, replace=False)
        found = feature_drift(reference, served_model.contract, users.take(lines), moments[lines])
        largest = max(largest, *(one["psi"] for one in found))
        assert document(found)["failed"] == {}
    assert largest > 0.25


def scored(scores: list[list[float]], model: str = "recommend") -> pa.Table:
    return pa.table({"model": [model] * len(scores), "scores": pa.array(scores, pa.list_(pa.float64()))})


@pytest.fixture
def by_position() -> dict[str, Any]:
    """First positions score from 0.8 to 1, second ones from 0 to 0.2."""
    generator = np.random.default_rng(0)
    pages = np.column_stack([generator.uniform(0.8, 1.0, 1000), generator.uniform(0.0, 0.2, 1000)])
    there = np.ones_like(pages, bool)
    bins = Bins.of(Sample.of(pages, there), most=20)
    shares = [bins.shares(Sample.of(pages[:, [place]], there[:, [place]])).tolist() for place in (0, 1)]
    return {"scores": {"bins": bins.to_dict(), "positions": shares, "users": 1000}}


def test_scores_are_compared_position_by_position(by_position: dict[str, Any]) -> None:
    generator = np.random.default_rng(1)
    first, second = generator.uniform(0.8, 1.0, 2000), generator.uniform(0.0, 0.2, 2000)
    # Pages of one item have high scores only, and that is no drift.
    for served in ([[one] for one in first], np.column_stack([first, second]).tolist()):
        told = score_drift(by_position, scored(served))
        assert told["psi"] < 0.05
    told = score_drift(by_position, scored((np.column_stack([first, second]) * 0.9).tolist()))
    assert told["psi"] > 1.0
    assert "scores" in document([], scores=told)["failed"]
    assert "no page of 'recommend'" in score_drift(by_position, scored([[0.5]], "search"))["note"]
    assert "no log" in score_drift(by_position, None)["note"]
    assert "no user" in score_drift({"scores": None}, None)["note"]


def outcomes(generator: np.random.Generator, rows: int, *, times: float) -> pa.Table:
    """Items whose purchases come ``times`` as often as their scores say."""
    chance = generator.uniform(0.01, 0.3, rows)
    bought = generator.random(rows) < chance * times
    none = np.zeros(rows, bool)
    return pa.table({"score": chance, "clicked": none, "carted": none, "purchased": bought})


def test_calibration_fails_where_scores_say_too_much_or_too_little() -> None:
    reference = {"score_weights": {"purchase": 1.0}, "calibration": {"ece": 0.01, "ratio": 1.0}}
    generator = np.random.default_rng(4)
    right = calibration_drift(reference, outcomes(generator, 5000, times=1.0))
    assert right["judged"]
    assert right["ratio"] == pytest.approx(1.0, abs=0.1)
    assert right["ece"] < 0.03
    assert document([], calibration=right)["failed"] == {}
    for times in (0.3, 3.0):
        wrong = calibration_drift(reference, outcomes(generator, 5000, times=times))
        assert wrong["ratio"] == pytest.approx(times, rel=0.15)
        told = document([], calibration=wrong)
        assert "times as frequent" in told["failed"]["calibration"]
        assert "Calibration" in drift_page(told)
    few = calibration_drift(reference, outcomes(generator, 40, times=0.1))
    assert not few["judged"]
    assert "fewer than 20" in few["note"]
    assert not calibration_drift(reference, None)["judged"]


def test_outcomes_whose_window_is_not_over_are_left_out(tmp_path: Path) -> None:
    assert read_outcomes(tmp_path, version=3, since=_MOMENT, until=_MOMENT) is None
    folder = tmp_path / "window=3600s" / "day=2026-03-01"
    folder.mkdir(parents=True)
    served = [_MOMENT + timedelta(minutes=minutes) for minutes in (0, 30, 90)]
    columns = {
        "score": [0.1, 0.2, 0.3],
        "served_at": pa.array(served, pa.timestamp("us", tz="UTC")),
        "model": ["recommend"] * 3,
        "model_version": [3, 4, 3],
        **{name: [False] * 3 for name in ("clicked", "carted", "purchased")},
    }
    pq.write_table(pa.table(columns), folder / "outcomes.parquet")
    found = read_outcomes(tmp_path, version=3, since=_MOMENT, until=_MOMENT + timedelta(minutes=120))
    assert found is not None
    assert found["score"].to_pylist() == [0.1]


def test_a_catalogue_that_the_model_does_not_know_fails() -> None:
    grown = growth({"items": 4, "users": 2}, ["a", "b", "c", "d"], ["a", "b", "c", "x", "y"], 3)
    assert grown["items"]["unknown to the model"] == 0.4
    assert "catalogue" in document([], grown=grown)["failed"]


def test_limits_that_contradict_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at most the failure"):
        DriftLimits(warn=0.3, fail=0.2)
    with pytest.raises(InvalidInput, match="not above 1"):
        DriftLimits(ratio=1.0)
    with pytest.raises(CheckFailed, match="no request"):
        require_no_drift({"requests": 0, "skipped": {}, "source": "nothing", "failed": {}})


def test_the_command_compares_impressions(
    small_shop: Shop,
    served_model: ServedModel,
    requests: tuple[UserTensors, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, moments = requests
    version, day = serving_version(small_shop.settings), small_shop.as_of - timedelta(hours=1)
    # All moments of the training as if today, times and all.
    ints = users.user_int.copy()
    for spec in served_model.contract.stored_features:
        if spec.element == "UNIX_TIMESTAMP":
            slot = served_model.contract.slots[spec.reference]
            columns = ints[:, slot.offset : slot.offset + slot.width]
            columns[columns != 0] += np.broadcast_to(
                (day.timestamp() - moments).round().astype(np.int64)[:, None], columns.shape
            )[columns != 0]
    floats = users.user_float.copy()

    def log(folder: Path) -> None:
        lines = range(len(users))
        documents = [
            json.dumps(
                {
                    "user_float": floats[line].astype(float).tolist(),
                    "user_int": ints[line].tolist(),
                    "user_string": users.user_string[line].tolist(),
                }
            )
            for line in lines
        ]
        table = pa.table(
            {
                "request_id": [f"request-{line}" for line in lines],
                "user_id": ["someone"] * len(users),
                "served_at": pa.array([day] * len(users), pa.timestamp("us", tz="UTC")),
                "model": ["rank"] * len(users),
                "version": [version] * len(users),
                "contract": [served_model.contract.fingerprint] * len(users),
                "scores": [[0.5]] * len(users),
                "features": documents,
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "pages.parquet")

    home = tmp_path / "home"
    for name in ("feature_repo", "model_repository"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).symlink_to(small_shop.settings.home / name)
    (home / ".recsys").mkdir()
    for name in ("export", "tables"):
        (home / ".recsys" / name).symlink_to(small_shop.settings.state / name)
    folder = home / ".recsys" / "impressions" / f"day={day.date().isoformat()}"
    monkeypatch.setenv("RECSYS_HOME", str(home))
    monkeypatch.setenv("RECSYS_AS_OF", small_shop.as_of.isoformat())
    log(folder)
    green = CliRunner().invoke(recsys, ["check", "drift", "--requests", "500", "--json"])
    assert green.exit_code == 0, green.exception
    told = json.loads(green.stdout)
    assert told["requests"] == 500
    assert told["skipped"] == {"pages: beyond the sample": 500}
    floats[:, served_model.contract.slots["user_statistics:spend_90d"].offset] += 1000.0
    log(folder)
    red = CliRunner().invoke(recsys, ["check", "drift"])
    assert red.exit_code == 3
    report = json.loads((home / ".recsys" / "checks" / "drift.json").read_text(encoding="utf-8"))
    assert list(report["failed"]) == ["user_statistics:spend_90d"]
    assert (home / ".recsys" / "checks" / "drift.html").stat().st_size > 10_000


def test_the_command_compares_the_newest_acts(
    small_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_HOME", str(small_shop.settings.home))
    monkeypatch.setenv("RECSYS_AS_OF", small_shop.as_of.isoformat())
    # Counts of a shop that is two months old still grow, so nothing but the fixed facts can be near training.
    arguments = ["check", "drift", "--history", "--days", "10", "--requests", "300", "--output", str(tmp_path)]
    result = CliRunner().invoke(recsys, arguments)
    assert result.exit_code == 3
    told = json.loads((tmp_path / "drift.json").read_text(encoding="utf-8"))
    assert told["requests"] == 300
    assert "user_statistics:lifetime_purchases" in told["failed"]
    assert not {"user_profile:country", "user_profile:gender"} & {*told["failed"], *told["warned"]}
    assert "no log of impressions" in told["scores"]["note"]
    assert not told["calibration"]["judged"]
