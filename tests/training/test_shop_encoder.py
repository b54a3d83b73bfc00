"""A shop's own text encoder: its pairs, and the fine-tuned encoder through training, interruption and export."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import CommandLine
from synthetic import event_table, write_tables
from tiny_encoder import COLOURS, tiny_encoder

from recsys_plugin.data.prepare import prepare_data
from recsys_plugin.errors import StepFailed
from recsys_plugin.pipeline import steps
from recsys_plugin.training.options import FineTuningOptions, RankerOptions, TrainingOptions, TwoTowerOptions
from recsys_plugin.training.shop_pairs import co_purchase_pairs, query_pairs, shop_pairs
from recsys_plugin.training.text import encode_texts, item_texts, load_encoder, save_encoder

Row = dict[str, Any]
TEXTS = pd.Series({name: f"text of {name}" for name in "abcdef"} | {"blank": " "})


def basket(day: int, items: str, *, user: str = "u", number: str | None = "", kind: str = "purchase") -> list[Row]:
    name = f"{user}/{day}" if number == "" else number
    moment = pd.Timestamp("2025-01-01", tz="UTC") + pd.Timedelta(days=day)
    return [
        {"user_id": user, "item_id": item, "event_type": kind, "timestamp": moment, "basket_id": name, "event_id": item}
        for item in items
    ]


def pairs_of(rows: list[Row]) -> dict[tuple[str, str], int]:
    found = co_purchase_pairs(event_table(rows), np.random.default_rng(0))
    return dict(Counter(found.itertuples(index=False, name=None)))


def test_pairs_are_bought_in_one_basket_and_frequent_ones_are_capped() -> None:
    rows = [row for day in range(5) for row in basket(day, "ab")]
    rows += basket(6, "bc") + basket(7, "cb") + basket(8, "ad") + basket(9, "e") + basket(10, "ef", kind="click")
    assert pairs_of(rows) == {("a", "b"): 3, ("b", "c"): 2}  # a and d met once only
    assert pairs_of(basket(0, "ad")) == {("a", "d"): 1}  # nothing better
    assert pairs_of(basket(0, "a")) == {}


def test_without_basket_numbers_a_moment_is_a_basket() -> None:
    rows = basket(0, "ab", number=None) + basket(0, "c", number=None, user="other") + basket(1, "d", number=None)
    assert pairs_of(rows) == {("a", "b"): 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 3))
def test_pairs_are_of_one_basket_whatever_its_size(sizes: list[int], seed: int) -> None:
    rows = []
    for number, size in enumerate(sizes):
        for line in range(size):
            rows += basket(number, "x")
            rows[-1]["item_id"] = f"{number}-{line}"
    found = co_purchase_pairs(event_table(rows), np.random.default_rng(seed))
    for anchor, item in found.itertuples(index=False):
        assert anchor != item
        assert anchor.split("-")[0] == item.split("-")[0]
    for number, size in enumerate(sizes):
        if size > 1 and size * (size - 1) // 2 <= 100 and max(sizes) * (max(sizes) - 1) // 2 <= 100:
            assert found["anchor"].str.startswith(f"{number}-").sum() == size * (size - 1) // 2


def test_queries_lead_to_what_was_clicked_or_bought() -> None:
    rows = basket(0, "a") + basket(1, "b", kind="click") + basket(2, "c", kind="impression") + basket(3, "d")
    for row, query in zip(rows, ("cup", " cup ", "cup", None), strict=True):
        row["query"] = query
    found = query_pairs(event_table(rows), np.random.default_rng(0))
    assert sorted(found.itertuples(index=False, name=None)) == [("cup", "a"), ("cup", "b")]


def test_validation_pairs_are_later_and_new_and_nothing_is_seen_after_the_split() -> None:
    rows = [row for day in range(20) for row in basket(day, "ab")] + basket(19, "cde", user="v") + basket(25, "ef")
    moment = pd.Timestamp("2025-01-21", tz="UTC")
    train, validation = shop_pairs(event_table(rows), TEXTS, before=moment, most=1000, seed=0)
    assert [set(zip(task.anchors, task.positives, strict=True)) for task in train] == [{("text of a", "text of b")}]
    assert [task.anchors for task in validation] == [("text of c", "text of c", "text of d")]
    assert shop_pairs(event_table(rows), TEXTS, before=pd.Timestamp("2020-01-01", tz="UTC"), most=9, seed=0) == ([], [])


def test_items_without_a_text_are_left_out() -> None:
    rows = [row for day in range(5) for row in basket(day, "ab")]
    for row in rows[::2]:
        row["item_id"] = "blank"
    moment = pd.Timestamp("2025-01-21", tz="UTC")
    assert shop_pairs(event_table(rows), TEXTS, before=moment, most=9, seed=0) == ([], [])


QUICK = TrainingOptions(
    candidates=50,
    fine_tuning=FineTuningOptions(mode="lora", epochs=2, batch=64, learning_rate=1e-2, checkpoint_every=1),
    two_tower=TwoTowerOptions(steps=3),
    ranker=RankerOptions(epochs=1),
)


class Interrupted(Exception):
    """What stops a run in these tests."""


def test_a_shop_fine_tunes_serves_and_resumes_its_encoder(tmp_path: Path) -> None:
    command = CommandLine.in_new_home(tmp_path / "home")
    write_tables(tmp_path / "tables", users=40, items=60, seed=3)
    words = (*COLOURS, "tea", "mugs", "garden", "toys", "lamps", "number", "thing", "lovers")
    save_encoder(tmp_path / "tiny", *tiny_encoder(words))
    chosen = replace(QUICK, encoder=str(tmp_path / "tiny"))
    prepare_data(command.settings, folder=tmp_path / "tables", now=pd.Timestamp("2026-01-01", tz="UTC").to_pydatetime())
    steps.apply(command.settings, lambda *told: None)

    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("fine-tuning") and done == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        steps.train(command.settings, chosen, interrupt)
    report = steps.train(command.settings, chosen, lambda *told: None).info
    cost = report["fine_tuning"]
    assert cost["resumed_at"] >= 2
    assert cost["mode"] == "lora"
    assert 0 < cost["trainable_share"] < 1
    assert cost["pairs"]["query_product_pairs"] > 10
    assert cost["pairs"]["co_purchases"] > 10
    assert cost["validation_loss"]

    training = command.settings.state / "training"
    items = pd.read_parquet(tmp_path / "tables" / "items.parquet")
    texts = item_texts(items)[:5]
    tuned, before = (
        encode_texts(*load_encoder(str(path)), texts) for path in (training / "encoder", tmp_path / "tiny")
    )
    assert np.abs(tuned - before).max() > 1e-3
    vectors = np.load(training / "text" / "items.npy", allow_pickle=False)
    assert all(np.abs(vectors - vector).max(1).min() < 1e-5 for vector in tuned)
    manifest = steps.export(command.settings, chosen, lambda *told: None).info
    assert manifest["parity"]["largest_difference"]["text_encoder.text_embedding"] < 1e-4
    assert steps.train(command.settings, chosen, lambda *told: None).current
    assert not (training / "encoder_checkpoint").exists()
    json.dumps(report)


def test_a_shop_without_pairs_is_told_so(tmp_path: Path) -> None:
    command = CommandLine.in_new_home(tmp_path / "home")
    (tmp_path / "tables").mkdir()
    moments = pd.date_range("2025-01-01", periods=60, freq="1D", tz="UTC")
    rows = [
        {"user_id": "u", "item_id": "ab"[n % 2], "event_type": "purchase", "timestamp": m, "price": 1.0}
        for n, m in enumerate(moments)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "tables" / "events.csv", index=False)
    pd.DataFrame({"item_id": ["a", "b"], "title": ["red mug", "blue lamp"]}).to_csv(
        tmp_path / "tables" / "items.csv", index=False
    )
    prepare_data(command.settings, folder=tmp_path / "tables", now=pd.Timestamp("2026-01-01", tz="UTC").to_pydatetime())
    steps.apply(command.settings, lambda *told: None)
    with pytest.raises(StepFailed, match="--fine-tune frozen"):
        steps.train(command.settings, QUICK, lambda *told: None)
