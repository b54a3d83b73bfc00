"""The fusion suite on a small made-up set, and reciprocal rank fusion by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_encoder import COLOURS, THINGS, tiny_encoder

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.quality.search import FILE, FOLDS, METRIC, Judgements
from recsys_plugin.quality.search_fusion import BM25, FUSED, RANKS, SERVED, WORDS, lexical_scores, rank_fusion, run
from recsys_plugin.training.text import save_encoder

TWO = Judgements(
    queries=("red mug", "lamp"),
    query=np.array([0, 0, 0, 1, 1]),
    titles=("Red mugs", "Blue mug", "Chair", "Lamp", "Table"),
    descriptions=("",) * 5,
    relevance=np.array([4.0, 2.0, 1.0, 4.0, 1.0]),
)


def test_ranks_are_fused_within_each_query() -> None:
    first, second = np.array([3.0, 2.0, 1.0, 0.1, 0.9]), np.array([1.0, 3.0, 2.0, 0.5, 0.4])
    wanted = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62, 1 / 62 + 1 / 61, 1 / 61 + 1 / 62]
    assert rank_fusion(TWO, first, second).tolist() == pytest.approx(wanted)


def test_words_in_the_plural_match() -> None:
    scores = lexical_scores(TWO)
    assert scores[0] > scores[1] > scores[2] == 0
    assert scores[3] > scores[4] == 0


def test_the_suite_runs_on_a_small_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"search_relevance_dev\.parquet"):
        run(tmp_path, seeds=(0,), tell=lambda what, done, total: None)
    rows = [
        {"query": thing, "product_title": f"{colour} {other}", "product_description": None, "median_relevance": grade}
        for number, thing in enumerate(THINGS)
        for colour in COLOURS
        for other, grade in ((thing, 4), (THINGS[number - 1], 1))
    ]
    (tmp_path / FILE.parent).mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / FILE)
    save_encoder(tmp_path / "encoder", *tiny_encoder())
    report = run(tmp_path, seeds=(0, 1), tell=lambda what, done, total: None, encoder=str(tmp_path / "encoder"))
    assert {len(figure.values) for figure in report.figures} == {2 * FOLDS}
    for system in (BM25, WORDS, FUSED, SERVED, RANKS):
        assert 0 < report.figure(system, METRIC).mean <= 1
    # The word is in the title, so words alone are right; the encoder knows nothing, and may cost a little.
    assert report.figure(WORDS, METRIC).mean == 1.0
    assert report.figure(FUSED, METRIC).mean > 0.98
    assert [target.metric for target in report.targets] == [f"{METRIC} difference"] * 3
    assert "played no part" in report.notes[0]
