"""The search suite on a small made-up set: its folds, its metric, and the whole run with a tiny encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_encoder import COLOURS, THINGS, tiny_encoder

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.quality.search import (
    FILE,
    FOLDS,
    METRIC,
    TUNED,
    ZERO_SHOT,
    Judgements,
    mean_ndcg,
    query_folds,
    read_judgements,
    run,
)
from recsys_plugin.training.text import save_encoder


def judgements(*grades: list[float]) -> Judgements:
    count = [len(of_query) for of_query in grades]
    return Judgements(
        queries=tuple(f"query {number}" for number in range(len(grades))),
        query=np.repeat(np.arange(len(grades)), count),
        titles=("title",) * sum(count),
        descriptions=("",) * sum(count),
        relevance=np.concatenate([np.array(of_query) for of_query in grades]),
    )


def test_ndcg_is_what_the_definition_says() -> None:
    two = judgements([1.0, 4.0, 3.0], [2.0, 2.0])
    perfect = 15 + 7 / np.log2(3) + 1 / 2
    found = 1 + 15 / np.log2(3) + 7 / 2
    scores = np.array([3.0, 2.0, 1.0, 0.0, 0.0])
    assert mean_ndcg(two, scores, np.array([0])) == pytest.approx(found / perfect)
    assert mean_ndcg(two, scores, np.array([0, 1])) == pytest.approx((found / perfect + 1) / 2)
    assert mean_ndcg(two, -scores, np.array([0])) == pytest.approx((7 + 15 / np.log2(3) + 1 / 2) / perfect)


def test_only_ten_places_count() -> None:
    one = judgements([4.0] + [1.0] * 10)
    first, last = np.arange(11.0)[::-1], np.arange(11.0)
    assert mean_ndcg(one, first, np.array([0])) == 1.0
    assert mean_ndcg(one, last, np.array([0])) < 0.3


def test_a_score_that_is_missing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'query 0' has products without a finite score"):
        mean_ndcg(judgements([1.0, 4.0]), np.array([np.nan, 1.0]), np.array([0]))


def test_every_query_is_in_one_fold() -> None:
    for seed in range(3):
        folds = query_folds(124, seed)
        assert sorted(np.concatenate(folds).tolist()) == list(range(124))
        assert {len(fold) for fold in folds} == {24, 25}
    assert query_folds(124, 0)[0].tolist() != query_folds(124, 1)[0].tolist()
    with pytest.raises(InvalidInput, match="3 queries cannot be split into 5 folds"):
        query_folds(3, 0)


def test_missing_data_is_named(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(ConfigurationError, match=r"search_relevance_dev\.parquet"):
            read_judgements(folder)


def test_the_whole_suite_runs_on_a_small_set(tmp_path: Path) -> None:
    rows = [
        {"query": thing, "product_title": f"{colour} {other}", "product_description": text, "median_relevance": grade}
        for number, thing in enumerate(THINGS)
        for colour in COLOURS
        for other, grade, text in ((thing, 4, None), (THINGS[number - 1], 1, f"a {colour} {THINGS[number - 1]}"))
    ]
    (tmp_path / FILE.parent).mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / FILE)
    save_encoder(tmp_path / "encoder", *tiny_encoder())
    told: list[str] = []
    report = run(
        tmp_path,
        seeds=(0, 1),
        tell=lambda what, done, total: told.append(what),
        encoder=str(tmp_path / "encoder"),
        multilingual=False,
    )
    assert {len(figure.values) for figure in report.figures} == {2 * FOLDS}
    assert all(0 < value <= 1 for figure in report.figures for value in figure.values)
    assert report.figure("BM25, title", METRIC).mean == 1.0  # the word is in the title
    assert report.figure("random order", METRIC).mean < 0.95
    assert [target.sense for target in report.targets] == ["at least", "at least", "at most"]
    full, zero_shot = (report.figure(name, METRIC).mean for name in (TUNED["full"], ZERO_SHOT))
    assert report.targets[0].reached == pytest.approx(full - zero_shot)
    assert any("lora, seed 1, fold 5" in what for what in told)
    assert "parameters" in report.figure(TUNED["lora"], METRIC).note
