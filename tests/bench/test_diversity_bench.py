"""``recsys bench diversity`` on made-up users, whose figures are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from recsys_plugin.bench.diversity import Pages, add_figures, draw_curves, reranked
from recsys_plugin.bench.report import Report
from recsys_plugin.cli._group import recsys
from recsys_plugin.training.contexts import Contexts

STRENGTHS = (0.0, 0.3, 0.9)


@pytest.fixture(scope="module")
def pages() -> Pages:
    """Users who buy their best candidates; items of a category are alike."""
    draw = np.random.default_rng(4)
    users, size = 40, 60
    categories = np.arange(size) % 6
    vectors = np.eye(6)[categories] + 0.2 * draw.normal(size=(size, 6))
    rows = np.stack([draw.permutation(size)[:30] for _ in range(users)])
    rows[0, 25:] = -1
    scores = np.sort(draw.random((users, 30)), axis=1)[:, ::-1].astype(np.float32)
    moment = pd.Timestamp("2024-01-01", tz="UTC")
    truth = Contexts(
        pd.DataFrame({"user_id": [f"u{user}" for user in range(users)], "event_timestamp": moment}),
        np.arange(0, 3 * users + 1, 3),
        rows[:, :3].reshape(-1).astype(np.int64),
    )
    return Pages(rows.astype(np.int64), scores, truth, vectors.astype(np.float32), categories.astype(np.int64))


def test_distance_and_coverage_rise(pages: Pages, tmp_path: Path) -> None:
    curves = {method: reranked(pages, method, STRENGTHS, 10) for method in ("mmr", "dpp")}
    for curve in curves.values():
        assert curve.ndcg[0] == pytest.approx(np.ones(40))
        for column in (curve.distance, curve.categories):
            means = column.mean(axis=1)
            assert means[0] < means[1] < means[2]
        assert curve.ndcg.mean(axis=1)[0] > curve.ndcg.mean(axis=1)[2]
    report = Report("Diversity", {}, {})
    add_figures(report, curves, 10)
    assert report.figures["mmr.strength_000.ndcg_10"] == 1
    low, mean, high = (report.figures[f"dpp.strength_090.ndcg_change{end}"] for end in ("_low", "", "_high"))
    assert low < mean < high <= 0
    draw_curves(tmp_path / "curves.png", curves, 10)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_home_without_models_is_told_what_to_do(tmp_path: Path) -> None:
    environment = {"RECSYS_HOME": str(tmp_path)}
    done = CliRunner().invoke(recsys, ["bench", "diversity"], env=environment)
    assert done.exit_code == 2
    assert "run `recsys train`" in done.output
    missing = str(tmp_path / "no" / "plot.png")
    assert CliRunner().invoke(recsys, ["bench", "diversity", "--plot", missing], env=environment).exit_code == 2
