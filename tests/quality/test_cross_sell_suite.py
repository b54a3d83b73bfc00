"""The cross-sell suite on a few made-up invoices: its halves, its metric, and the whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from recsys_plugin.errors import ConfigurationError, InvalidInput
from recsys_plugin.quality.cross_sell import Halves, halve, recall, run
from recsys_plugin.training.baskets import Baskets


def binary(*lines: list[int]) -> sp.csr_matrix:
    return sp.csr_matrix(np.array(lines, np.float32))


def no_progress(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def test_halves_are_disjoint_and_make_up_the_known_part() -> None:
    items = binary([1] * 7, [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0])
    baskets = Baskets(items, np.arange(3), np.zeros(3, np.int64), 10)
    known = np.array([True] * 4 + [False] * 2 + [True])
    halves = halve(baskets, known, 3)
    # The third has three known items only.
    assert halves.given.shape == halves.hidden.shape == (2, 7)
    assert halves.given.sum(axis=1).ravel().tolist() == [[2.0, 2.0]]
    assert (halves.given + halves.hidden).toarray().tolist() == (items.toarray() * known)[:2].tolist()
    assert (halve(baskets, known, 3).given != halves.given).nnz == 0
    assert len({tuple(halve(baskets, known, seed).given.indices) for seed in range(9)}) > 1


def test_recall_counts_hits_among_ten_that_were_not_given() -> None:
    size = 14
    given, hidden = np.zeros((2, 2, size), np.float32)
    given[:, 0] = 1
    hidden[0, [1, 13]] = 1
    hidden[1, 1:13] = 1
    halves = Halves(sp.csr_matrix(given), sp.csr_matrix(hidden))
    falling = -np.arange(size, dtype=np.float32)
    # Of the ten best without the given one, item 1 is one of two; and ten are ten of twelve.
    assert recall(lambda baskets: np.repeat(falling[None], baskets.shape[0], axis=0), halves, block=1) == 0.75
    seldom = halves.seldom(np.array([30.0] * size))
    assert seldom.given.shape[0] == 0
    assert np.isnan(recall(lambda baskets: baskets.toarray(), seldom))


def invoices(path: Path) -> None:
    """Five sets of six items, each invoice of one set; the shop's hit is on all of them."""
    generator = np.random.default_rng(0)
    lines = []
    for number, day in enumerate(pd.date_range("2011-08-01", "2011-11-30", periods=400)):
        chosen = number % 5 * 6 + generator.permutation(6)[:4]
        for item in [*chosen, 30]:
            lines.append(
                (str(500_000 + number), f"{10_000 + item}", f"ITEM {item}", 1, day.floor("min"), 2.0, number % 40)
            )
    columns = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
    frame = pd.DataFrame(lines, columns=columns).assign(Country="United Kingdom")
    path.mkdir()
    frame.to_parquet(path / "online_retail_ii.parquet")


def test_the_suite_on_sets_that_are_bought_together(tmp_path: Path) -> None:
    invoices(tmp_path / "online_retail_ii")
    report = run(tmp_path, seeds=(0, 1), tell=no_progress, text=False)
    metric = "recall@10"
    assert len(report.figure("ours", metric).values) == 2
    # All that is missing belongs to the set or is the hit.
    assert report.figure("ours", metric).mean > 0.95 > report.figure("popularity", metric).mean
    assert report.figure("EASE^R on users", metric).mean > report.figure("popularity", metric).mean
    assert [target.wanted for target in report.targets[:2]] == [0.277, 0.30]
    assert "invoices to predict" in report.notes[0]
    earlier = run(tmp_path, seeds=(0,), tell=no_progress, split="validation", text=False)
    assert "2011-10-01" in earlier.protocol
    assert earlier.notes != report.notes


def test_what_the_suite_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs online_retail_ii"):
        run(None, seeds=(0,), tell=no_progress)
    with pytest.raises(InvalidInput, match="no online_retail_ii"):
        run(tmp_path, seeds=(0,), tell=no_progress)
    with pytest.raises(InvalidInput, match="has no split 'train'; there are test, validation"):
        run(tmp_path, seeds=(0,), tell=no_progress, split="train")
