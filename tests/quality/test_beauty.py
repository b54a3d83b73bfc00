"""The Beauty suite on a small data set, and the sequences, ranks, loss and training under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recsys_plugin.errors import ConfigurationError, DataError, InvalidInput
from recsys_plugin.quality.beauty import Neighbours, load_beauty, run
from recsys_plugin.training.next_item import (
    NextItemModel,
    NextItemOptions,
    co_occurrence,
    co_occurrence_embeddings,
    cosines,
    full_softmax_loss,
    train_next_item,
)
from recsys_plugin.training.sequences import Sequences, target_ranks, top_metrics

ITEMS, USERS = 40, 120


def _lines() -> list[list[int]]:
    """Users who walk through the items one after another, from a random one on."""
    generator = np.random.default_rng(0)
    return [
        [(first + step) % ITEMS for step in range(length)]
        for first, length in zip(generator.integers(0, ITEMS, USERS), generator.integers(4, 9, USERS), strict=True)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "beauty").mkdir()
    lines = [f"{user} " + " ".join(str(item + 1) for item in items) for user, items in enumerate(_lines(), start=1)]
    (folder / "beauty" / "beauty.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_suite_reports_ours_beside_published_and_computed_baselines(data: Path) -> None:
    told: list[str] = []
    report = run(data, seeds=(0, 3), tell=lambda what, done, total: told.append(what), epochs=4, width=16)
    assert {figure.system for figure in report.figures if figure.source} == {
        "PopRec", "GRU4Rec", "BERT4Rec", "SASRec", "S3-Rec",
    }  # fmt: skip
    for system in ("history encoder", "history encoder + item-kNN"):
        figure = report.figure(system, "NDCG@10")
        assert len(figure.values) == 2
        assert all(0.0 <= value <= 1.0 for value in figure.values)
    # What comes next is certain here once the order is learnt: popularity knows nothing of it.
    assert report.figure("history encoder", "HR@10").mean > report.figure("PopRec", "HR@10").mean + 0.2
    assert {target.metric for target in report.targets} == {"difference in HR@10", "HR@10", "NDCG@10"}
    assert any("seed 3" in what for what in told)
    assert '"suite": "beauty"' in report.to_json()


def test_a_run_repeats_itself(data: Path) -> None:
    first, second = (run(data, seeds=(1,), tell=lambda *_: None, epochs=2, width=16) for _ in range(2))
    assert [figure.values for figure in first.figures] == [figure.values for figure in second.figures]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"epochs": 0}, "epochs is 0"), ({"dropout": 1.0}, "dropout 1.0"), ({"temperature": -0.1}, "temperature -0.1")],
)
def test_options_that_make_no_model_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        NextItemOptions(**wrong)


def test_missing_data_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"RECSYS_DATA is not set: .*S3Rec"):
        load_beauty(None)
    with pytest.raises(ConfigurationError, match=r"holds no beauty.beauty.txt"):
        load_beauty(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 4\n2 5 x 6\n", "row 2: wants whole numbers"),
        ("1 2 3\n", "row 1: wants a user and at least"),
        ("", "holds no user"),
    ],
)
def test_malformed_data_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "beauty").mkdir()
    (tmp_path / "beauty" / "beauty.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_beauty(tmp_path)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5), st.integers(0, 3), st.integers(1, 4))
def test_sequences_agree_with_lists(parts: list[list[int]], skip: int, length: int) -> None:
    sequences = Sequences.of(parts)
    shorter = sequences.without_last(skip)
    kept = [part[: max(0, len(part) - skip)] for part in parts]
    assert [shorter.rows[a:b].tolist() for a, b in zip(shorter.offsets, shorter.offsets[1:], strict=False)] == kept
    assert sequences.item_from_end(skip + 1).tolist() == [part[-skip - 1] if len(part) > skip else -1 for part in parts]
    matrix = sequences.newest_first(np.arange(len(parts)), length, skip=skip)
    assert matrix.shape[1] == max(1, *(min(len(part), length) for part in kept), 1)
    for line, part in zip(matrix.tolist(), kept, strict=True):
        newest = part[::-1][:length]
        assert line == newest + [-1] * (len(line) - len(newest))
    taken = sequences.take(np.array([len(parts) - 1]))
    assert taken.rows.tolist() == parts[-1]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_ranks_leave_out_what_the_user_had_and_count_ties_against_the_target(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 4, (5, 12)).astype(np.float32)
    known = [generator.integers(0, 12, generator.integers(0, 6)).tolist() for _ in range(5)]
    targets = generator.integers(0, 12, 5)
    wanted = [
        sum(scores[u, i] >= scores[u, targets[u]] for i in range(12) if i != targets[u] and i not in known[u])
        for u in range(5)
    ]
    ranks = target_ranks(lambda users: scores[users], Sequences.of(known), targets)
    assert ranks.tolist() == wanted


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores = np.array([[0.1, np.nan, 0.3]], np.float32)
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        target_ranks(lambda users: scores[users], Sequences.of([[0]]), np.array([1]))


def test_metrics_by_hand() -> None:
    found = top_metrics(np.array([0, 4, 9, 10]))
    assert found["HR@5"] == 0.5
    assert found["HR@10"] == 0.75
    assert found["NDCG@5"] == pytest.approx((1.0 + 1.0 / np.log2(6)) / 4)
    assert np.isnan(top_metrics(np.empty(0, np.int64))["HR@10"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("matrices", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_loss_and_its_gradients_are_those_of_cross_entropy(
    smoothing: float, matrices: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    states, table = torch.randn(600, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    targets = torch.randint(0, 30, (600,))
    found = full_softmax_loss(states, table, targets, label_smoothing=smoothing, matrices=matrices)
    wanted = F.cross_entropy(states @ table.T, targets, label_smoothing=smoothing)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    ours = torch.autograd.grad(3.0 * found, (states, table))
    theirs = torch.autograd.grad(3.0 * wanted, (states, table))
    for gradient, exact in zip(ours, theirs, strict=True):
        assert float((gradient - exact).norm() / exact.norm()) < tolerance


def test_item_knn_by_hand() -> None:
    train = Sequences.of([[0, 1], [0, 1], [1, 2], [3, 0]])
    neighbours = Neighbours(co_occurrence(train, 5), shrinkage=1.0, decay=0.5)
    # Items 0 and 1 are in 3 sequences each and 2 together; 1 and 2 in 1 together.
    first, second = 2.0 / (3.0 + 1.0), 1.0 / (np.sqrt(3.0) + 1.0)
    scores = neighbours.scores(Sequences.of([[1, 0], []]))(np.array([0, 1]))
    np.testing.assert_allclose(scores[0], [0.5 * first, first, 0.5 * second, second, 0.0], rtol=1e-5)
    assert not scores[1].any()


def test_start_embeddings_repeat_and_rebuild_the_cosines() -> None:
    together = co_occurrence(Sequences.of(_lines()), ITEMS)
    first, second = (co_occurrence_embeddings(together, 20, seed=4) for _ in range(2))
    assert torch.equal(first, second)
    assert float(first.std()) == pytest.approx(0.02, rel=0.1)
    near = np.corrcoef((first @ first.T).numpy().ravel(), cosines(together, 20.0).toarray().ravel())[0, 1]
    assert near > 0.9
    with pytest.raises(InvalidInput, match="40 items have no 40 eigenvectors"):
        co_occurrence_embeddings(together, ITEMS)


def test_training_keeps_the_best_epoch_and_stops_by_patience() -> None:
    full = Sequences.of(_lines())
    train, wanted = full.without_last(1), full.item_from_end(1)
    options = NextItemOptions(width=16, epochs=30, patience=2, batch=32, dropout=0.1, seed=5)
    torch.manual_seed(5)
    model = NextItemModel(ITEMS, options)
    record = train_next_item(model, train, wanted, options)
    assert record.losses[-1] < record.losses[0]
    ranks = target_ranks(lambda users: model.scores(train.newest_first(users, options.length)), train, wanted)
    assert top_metrics(ranks)["NDCG@10"] == max(record.validation)
    assert len(record.losses) <= record.best_epoch + options.patience


def test_training_without_pairs_or_judges_is_refused() -> None:
    options = NextItemOptions(width=8)
    model = NextItemModel(3, options)
    with pytest.raises(InvalidInput, match="a sequence of two items"):
        train_next_item(model, Sequences.of([[0], [1]]), np.array([1, 2]), options)
    with pytest.raises(InvalidInput, match="one validation item"):
        train_next_item(model, Sequences.of([[0, 1]]), np.array([-1]), options)


def test_a_user_with_nothing_and_a_sequence_of_one_are_scored() -> None:
    model = NextItemModel(7, NextItemOptions(width=8)).eval()
    scores = model.scores(Sequences.of([[], [3]]).newest_first(np.array([0, 1]), 50))
    assert scores.shape == (2, 7)
    assert bool(torch.isfinite(scores).all())
