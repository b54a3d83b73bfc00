"""Fine-tuning of a text encoder, on one of two layers: it learns, reports its cost, resumes exactly and stops early."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoder import COLOURS, THINGS, tiny_encoder

from recsys_plugin.errors import ConfigurationError, InvalidInput, StepFailed
from recsys_plugin.training.fine_tuning import fine_tune
from recsys_plugin.training.fine_tuning_tasks import (
    ContrastivePairs,
    FineTuningTask,
    GradedPairs,
    contrastive_loss,
    graded_loss,
)
from recsys_plugin.training.options import FineTuningOptions
from recsys_plugin.training.text import encode_texts

Weights = dict[str, torch.Tensor]


def products() -> ContrastivePairs:
    """The name of a thing asks for that thing in any colour."""
    pairs = list(itertools.product(COLOURS, THINGS))
    return ContrastivePairs([thing for _, thing in pairs], [f"{colour} {thing}" for colour, thing in pairs])


def graded() -> GradedPairs:
    rows = [
        (thing, f"{colour} {other}", 4.0 if thing == other else 1.0)
        for thing in THINGS[:4]
        for colour in COLOURS
        for other in THINGS[:3]
    ]
    return GradedPairs(*map(list, zip(*rows, strict=True)))


def weights_of(encoder: torch.nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in encoder.state_dict().items()}


def same(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def options(mode: str, **more: Any) -> FineTuningOptions:
    return FineTuningOptions(
        **{"mode": mode, "epochs": 6, "batch": 12, "learning_rate": 1e-2, "checkpoint_every": 2, **more}
    )


def found(encoder: Any, tokenizer: Any) -> float:
    """Share of products whose nearest query is the name of the thing."""
    pairs = list(itertools.product(COLOURS, range(len(THINGS))))
    queries = encode_texts(encoder, tokenizer, THINGS, kind="query")
    passages = encode_texts(encoder, tokenizer, [f"{colour} {THINGS[thing]}" for colour, thing in pairs])
    return float(np.mean((passages @ queries.T).argmax(1) == [thing for _, thing in pairs]))


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("task", [products, graded])
def test_it_learns_and_reports_its_cost(mode: str, task: Callable[[], FineTuningTask]) -> None:
    encoder, tokenizer = tiny_encoder()
    before = weights_of(encoder)
    report = fine_tune(encoder, tokenizer, [task()], options(mode))
    assert report.training_loss[-1] < 0.8 * report.training_loss[0]
    assert report.parameters == sum(value.numel() for value in encoder.parameters())
    assert 0 < report.trainable_parameters < report.parameters
    assert report.peak_memory_bytes > 1_000_000
    assert report.memory == "process"
    assert report.seconds > 0
    assert len(report.training_loss) == report.best_epoch == 6
    after = weights_of(encoder)
    assert after.keys() == before.keys()  # LoRA is merged
    assert torch.equal(*(w["transformer.embeddings.word_embeddings.weight"] for w in (before, after)))
    assert not encoder.training


def test_contrastive_fine_tuning_finds_the_products_of_a_query() -> None:
    encoder, tokenizer = tiny_encoder()
    before = found(encoder, tokenizer)
    fine_tune(encoder, tokenizer, [products()], options("full", epochs=12))
    assert found(encoder, tokenizer) > max(0.9, before)


def test_lora_trains_fewer_parameters_than_full() -> None:
    reports = {}
    for mode in ("frozen", "lora", "full"):
        encoder, tokenizer = tiny_encoder()
        before = weights_of(encoder)
        reports[mode] = fine_tune(encoder, tokenizer, [products()], options(mode, epochs=1, rank=1))
        assert same(before, weights_of(encoder)) == (mode == "frozen")
    assert (
        0 == reports["frozen"].trainable_share < reports["lora"].trainable_share < reports["full"].trainable_share < 1
    )
    assert len({report.parameters for report in reports.values()}) == 1


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    results = []
    for seed in (0, 0, 1):
        encoder, tokenizer = tiny_encoder()
        fine_tune(encoder, tokenizer, [products()], options("lora", epochs=1, seed=seed))
        results.append(weights_of(encoder))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


class Interrupted(Exception):
    """What stops a run in these tests."""


def interrupt_at(step: int) -> Callable[[int, int, float], None]:
    def progress(done: int, steps: int, loss: float) -> None:
        if done == step:
            raise Interrupted

    return progress


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 11])
def test_an_interrupted_run_that_is_resumed_ends_with_the_same_weights(mode: str, step: int, tmp_path: Path) -> None:
    chosen = options(mode, epochs=3, patience=3, dropout=0.2)
    encoder, tokenizer = tiny_encoder()
    validation = [graded()]
    whole = fine_tune(encoder, tokenizer, [products()], chosen, validation=validation)
    wanted = weights_of(encoder)

    encoder, tokenizer = tiny_encoder()
    with pytest.raises(Interrupted):
        fine_tune(
            encoder,
            tokenizer,
            [products()],
            chosen,
            validation=validation,
            checkpoints=tmp_path / "state",
            progress=interrupt_at(step),
        )
    encoder, tokenizer = tiny_encoder()
    torch.manual_seed(99)
    report = fine_tune(encoder, tokenizer, [products()], chosen, validation=validation, checkpoints=tmp_path / "state")
    assert report.resumed_at == {1: 0, 3: 2, 4: 2, 5: 4, 11: 10}[step]
    assert same(wanted, weights_of(encoder))
    assert report.training_loss == whole.training_loss
    assert report.validation_loss == whole.validation_loss


def test_a_checkpoint_of_other_options_or_examples_is_no_help(tmp_path: Path) -> None:
    encoder, tokenizer = tiny_encoder()
    with pytest.raises(Interrupted):
        fine_tune(
            encoder, tokenizer, [products()], options("lora"), checkpoints=tmp_path / "state", progress=interrupt_at(3)
        )
    encoder, tokenizer = tiny_encoder()
    report = fine_tune(
        encoder, tokenizer, [products()], options("lora", seed=1, epochs=1), checkpoints=tmp_path / "state"
    )
    assert report.resumed_at == 0
    encoder, tokenizer = tiny_encoder()
    report = fine_tune(encoder, tokenizer, [graded()], options("lora", epochs=1), checkpoints=tmp_path / "state")
    assert report.resumed_at == 0


def test_it_stops_early_and_keeps_the_best_weights() -> None:
    wrong = GradedPairs(["mug"] * 2, ["blue mug", "red lamp"], [1.0, 4.0])
    encoder, tokenizer = tiny_encoder()
    report = fine_tune(encoder, tokenizer, [products()], options("full", epochs=20, patience=2), validation=[wrong])
    assert len(report.validation_loss) == report.best_epoch + 2 < 20
    assert report.best_epoch == 1 + int(np.argmin(report.validation_loss))
    kept = fine_tune(*tiny_encoder(), [products()], options("full", epochs=20, patience=20), validation=[wrong])
    assert kept.best_epoch == 1 + int(np.argmin(kept.validation_loss))


def test_what_cannot_be_learned_from_is_refused() -> None:
    encoder, tokenizer = tiny_encoder()
    with pytest.raises(ConfigurationError, match="frozen, lora, full"):
        fine_tune(encoder, tokenizer, [products()], options("lorra"))
    with pytest.raises(InvalidInput, match="no example"):
        fine_tune(encoder, tokenizer, [ContrastivePairs([], [])], options("lora"))
    with pytest.raises(InvalidInput, match="validation set is too small"):
        fine_tune(
            encoder, tokenizer, [products()], options("lora"), validation=[ContrastivePairs(["mug"], ["red mug"])]
        )
    with pytest.raises(InvalidInput, match="no order to learn"):
        GradedPairs(["mug", "lamp"], ["red mug", "red lamp"], [1.0, 4.0])
    with pytest.raises(InvalidInput, match="row 1 is nan"):
        GradedPairs(["mug", "mug"], ["red mug", "blue mug"], [1.0, float("nan")])
    with pytest.raises(InvalidInput, match="row 0 of the positives is blank"):
        ContrastivePairs(["mug"], [" "])
    with pytest.raises(InvalidInput, match="2 anchors but 1 positives"):
        ContrastivePairs(["mug", "mug"], ["red mug"])
    with pytest.raises(StepFailed, match="learning rate below"):
        fine_tune(encoder, tokenizer, [products()], options("full", learning_rate=1e30))


def test_known_pairs_and_equal_texts_are_no_negatives() -> None:
    task = ContrastivePairs(
        ["mug", "mug", "lamp", "red mug"], ["red mug", "blue mug", "red lamp", "blue mug"], anchor_kind="passage"
    )
    together = task.together(np.arange(4))
    assert together.tolist() == [
        [True, True, False, True],
        [True, True, False, True],
        [False, False, True, False],
        [True, True, False, True],  # "red mug" and itself; with "blue mug" by the last pair
    ]


def test_masked_pairs_change_no_loss() -> None:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    anchors, positives = vectors + 0.1, vectors
    together = torch.eye(3, dtype=torch.bool)
    together[0, 2] = together[2, 0] = True
    loss = contrastive_loss(anchors, positives, together, temperature=1.0)
    cosines = anchors @ positives.T
    rows = [cosines[0, :2], cosines[1], cosines[2, 1:]]
    columns = [cosines[:2, 0], cosines[:, 1], cosines[1:, 2]]
    by_hand = [torch.logsumexp(part, 0) - cosines[n, n] for parts in (rows, columns) for n, part in enumerate(parts)]
    assert float(loss) == pytest.approx(float(torch.stack(by_hand).mean()), abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.floats(-1, 1)), min_size=1, max_size=12))
def test_the_graded_loss_is_the_divergence_of_shares_of_gain(rows: list[tuple[int, int, float]]) -> None:
    lists = [
        [(grade, logit) for query, grade, logit in rows if query == one] for one in sorted({row[0] for row in rows})
    ]
    own = torch.tensor([[row[0] == one for row in rows] for one in sorted({row[0] for row in rows})])
    relevance = torch.tensor([float(row[1]) for row in rows])
    logits = torch.tensor([row[2] for row in rows]).repeat(len(own), 1)
    wanted = []
    for products in lists:
        gains = np.array([2.0**grade - 1 for grade, _ in products])
        shares, found = gains / gains.sum(), np.exp([logit for _, logit in products])
        wanted.append(float((shares * np.log(shares * found.sum() / found)).sum()))
    assert float(graded_loss(logits, own, relevance)) == pytest.approx(float(np.mean(wanted)), rel=1e-4, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 20), st.integers(0, 5))
def test_batches_hold_every_pair_once(pairs: int, size: int, seed: int) -> None:
    task = ContrastivePairs([f"query {n}" for n in range(pairs)], [f"product {n}" for n in range(pairs)])
    batches = task.batches(size, np.random.default_rng(seed))
    rows = np.concatenate(batches)
    assert len(set(rows.tolist())) == len(rows) >= pairs - 1
    assert all(2 <= len(batch) <= size for batch in batches)
