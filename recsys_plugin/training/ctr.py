"""The CTR models of a shop: what they learn from, how each is trained, calibrated and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.errors import StepFailed
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.training.artefacts import code_sizes, read_two_tower
from recsys_plugin.training.candidates import candidate_rows, training_lists
from recsys_plugin.training.contexts import Contexts, outcomes, relevant_events
from recsys_plugin.training.evaluation import rank_candidates, score_candidates
from recsys_plugin.training.frames import Frames, Split
from recsys_plugin.training.impressions import ShownPages, with_shown_pages
from recsys_plugin.training.inputs import ItemInputs, UserInputs, Vocabulary, item_inputs
from recsys_plugin.training.metrics import ranking_metrics
from recsys_plugin.training.modalities import ItemModalities
from recsys_plugin.training.options import TrainingOptions
from recsys_plugin.training.packing import UserTensors
from recsys_plugin.training.ranker import HEADS, CandidateRanker, Ranker, TrainingLists
from recsys_plugin.training.two_tower import TwoTower
from recsys_plugin.training.zoo.metrics import binary_metrics, list_ndcg_values
from recsys_plugin.training.zoo.model import NO_STATISTICS, Calibration, CtrModel, CtrOptions, Fitted, Progress
from recsys_plugin.training.zoo.registry import new_model
from recsys_plugin.training.zoo.shop import FrameRanker, ShopColumns, lists_frame

__all__ = [
    "Offered",
    "RankerMaterial",
    "calibrate",
    "judge_ranker",
    "offered_candidates",
    "outcomes_until",
    "ranker_folder",
    "ranker_material",
    "train_frame_ranker",
    "without_nan",
]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Users of the validation whose candidates stop the training early, at most; all of them calibrate and choose.
_STOPPING_USERS = 300
#: Lists that the deep members learn from, at most: beyond that they cost minutes and gain little.
_DEEP_LISTS = 4000
_DEEP = ("dcn", "din", "mmoe", "ple")
#: How each member is trained on a shop.
SHOP_OPTIONS: Mapping[str, CtrOptions] = {
    "logistic": CtrOptions(learning_rate=3e-3, epochs=12, patience=2),
    # How often an item was taken when it was offered changes with the season: statistics of spring mislead in autumn.
    "lightgbm": CtrOptions(
        learning_rate=0.05, epochs=400, patience=30, leaves=31, least=200, weight_decay=5.0, smoothing=NO_STATISTICS
    ),
    "dcn": CtrOptions(epochs=8, patience=2, width=8),
    "din": CtrOptions(epochs=4, patience=1, width=8),
    "mmoe": CtrOptions(epochs=8, patience=2, width=8),
    "ple": CtrOptions(epochs=8, patience=2, width=8),
}


@dataclass(frozen=True, slots=True)
class RankerMaterial:
    """What every CTR model learns from.

    Attributes:
        contract: the feature contract. towers: the trained two-tower. inputs: reads the contract's tensors.
        items: the item snapshot of the validation. snapshots: those of the training weeks and the validation.
        vocabularies: of the item code columns.
        lists: sampled candidate lists, then pages as they were shown. users: the packed users that they name.
    """

    contract: FeatureContract
    towers: TwoTower
    inputs: UserInputs
    items: ItemInputs
    snapshots: list[ItemInputs]
    vocabularies: Mapping[str, Vocabulary]
    lists: TrainingLists
    users: UserTensors

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the item code columns."""
        return code_sizes(self.vocabularies)


@dataclass(frozen=True, slots=True)
class Offered:
    """The candidates that retrieval offers to the users of a split, and what came of each.

    Attributes:
        users: packed, n of them. items: the split's item snapshot. rows: int64 [n, C].
        labels: float32 [n, C, heads]; NaN where the data cannot tell. truth: all purchases of the same users.
    """

    users: UserTensors
    items: ItemInputs
    rows: _Array
    labels: _Array
    truth: Contexts

    def first(self, most: int, seed: int) -> Offered:
        """At most so many users, drawn at random."""
        if len(self.users) <= most:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.users), most, replace=False))
        return replace(
            self,
            users=self.users.take(chosen),
            rows=self.rows[chosen],
            labels=self.labels[chosen],
            truth=self.truth.take(chosen),
        )


def ranker_material(
    frames: Frames,
    two_tower: Path,
    modalities: ItemModalities,
    options: TrainingOptions,
    shown: tuple[ShownPages, UserTensors],
) -> RankerMaterial:
    """Sample candidate lists for moments of the training time, and put the pages that were shown beside them.

    What has not come of a candidate by the end of the training time, though its horizon was not over, is unknown: such
    labels are NaN rather than 0.

    Raises:
        StepFailed: if no training moment lies after the first item snapshot.
    """
    towers, contract, items, vocabularies = read_two_tower(
        two_tower, frames.snapshots[-3], modalities, frames.neighbours[-3]
    )
    if not len(frames.pages.users):
        raise StepFailed("no page to learn from after the first item snapshot: the data spans too little time")
    snapshots = [
        item_inputs(frame, modalities, vocabularies, neighbours=neighbours)[0]
        for frame, neighbours in zip(frames.snapshots[:-2], frames.neighbours[:-2], strict=True)
    ]
    users = frames.pages.users
    lists = training_lists(
        towers, frames.outcomes, users, frames.weeks, retrieved=options.candidates, seed=options.seed
    )
    asked = frames.pages.contexts.entities["event_timestamp"].iloc[lists.context]
    pending = (asked + frames.horizon > frames.moments[-3]).to_numpy()
    labels = lists.labels.copy()
    labels[pending] = np.where(labels[pending] == 0.0, np.nan, labels[pending])
    inputs = UserInputs(contract, towers.user.inputs.vocabularies)
    inputs.load_state_dict(towers.user.inputs.state_dict())
    lists, users = with_shown_pages(replace(lists, labels=labels), users, *shown)
    return RankerMaterial(contract, towers, inputs, items, snapshots, vocabularies, lists, users)


def offered_candidates(
    towers: TwoTower, split: Split, outcomes: Mapping[str, Contexts], items: ItemInputs, candidates: int
) -> Offered:
    """Retrieve for every user of a split and label what came of it.

    Args:
        towers: the two-tower. split: one context per user. outcomes: what each user did, by head.
        items: the split's item snapshot. candidates: how many to retrieve.
    """
    if not len(split.users):
        empty = np.empty((0, candidates), np.int64)
        return Offered(split.users, items, empty, np.empty((*empty.shape, len(HEADS)), np.float32), split.contexts)
    rows, _ = candidate_rows(towers, split.users, candidates)
    labels = np.full((*rows.shape, len(HEADS)), np.nan, np.float32)
    for head, truth in outcomes.items():
        for line in range(len(rows)):
            labels[line, :, HEADS.index(head)] = np.isin(rows[line], truth.positives(line))
    return Offered(split.users, items, rows, labels, split.contexts)


def train_frame_ranker(
    name: str,
    material: RankerMaterial,
    validation: Offered,
    seed: int,
    tell: Progress,
    *,
    start: CtrModel | None = None,
) -> tuple[FrameRanker, Fitted]:
    """Train one member of the zoo and calibrate it on the whole validation.

    Args:
        name: one of :data:`~recsys_plugin.training.zoo.registry.FRAME_MODELS`.
        material: what to learn from. validation: stops early and calibrates. seed: of the training.
        tell: told what is under way. start: a model for the same columns to go on from.
    """
    model = new_model(name)
    numbers = material.items.numbers.shape[1]
    size = len(material.items.numbers)
    shop = ShopColumns(material.inputs, numbers, material.sizes, size).eval()
    train = lists_frame(
        shop,
        _drawn(material.lists, _DEEP_LISTS, seed) if name in _DEEP else material.lists,
        material.users,
        material.towers,
        material.snapshots,
        tell=lambda done, total: tell(f"{name}: columns", done, total),
    )
    few = validation.first(_STOPPING_USERS, seed)
    held = train.take(np.empty(0, np.int64))
    if len(few.users):
        lines = np.arange(len(few.users))
        every = TrainingLists(
            lines, np.zeros(len(lines), np.int64), few.rows, few.labels, (few.rows >= 0).astype(np.float32)
        )
        held = lists_frame(shop, every, few.users, material.towers, [few.items])
    fitted = model.fit(train, held, SHOP_OPTIONS[name], seed, tell, start=start)
    ranker = FrameRanker(model, material.inputs, numbers, material.sizes, size).eval()
    calibrate(ranker, material.towers, validation)
    return ranker, fitted


def ranker_folder(name: str) -> str:
    """The folder of a CTR model below ``training/``."""
    return "ranker" if name == Ranker.name else f"ctr_{name}"


def outcomes_until(
    contexts: Contexts, events: Iterable[pd.DataFrame], item_ids: pd.Index[str], head: str, *, end: pd.Timestamp
) -> Contexts:
    """What each user did of one type from his moment until ``end``.

    Args:
        contexts: one context per user, all of one moment. events: pieces of the events table, in order of time.
        item_ids: the catalogue in row order. head: the event type. end: nothing from then on counts.
    """
    acted = relevant_events(events, contexts.entities["user_id"], head, before=end)
    if not len(contexts):
        return contexts
    latest = acted["timestamp"].max() if len(acted) else contexts.entities["event_timestamp"].max()
    span = latest - contexts.entities["event_timestamp"].min()
    return outcomes(contexts, acted, item_ids, head, hours=int(span.total_seconds() // 3600) + 1, before=end)


def without_nan(value: Any) -> Any:
    """A report with None for what is not a number, as JSON has it."""
    if isinstance(value, Mapping):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _drawn(lists: TrainingLists, most: int, seed: int) -> TrainingLists:
    if len(lists.context) <= most:
        return lists
    chosen = np.sort(np.random.default_rng(seed).choice(len(lists.context), most, replace=False))
    return TrainingLists(
        lists.context[chosen], lists.week[chosen], lists.rows[chosen], lists.labels[chosen], lists.weights[chosen]
    )


def calibrate(ranker: CandidateRanker, towers: TwoTower, validation: Offered) -> Calibration:
    """Platt-scale a ranker, in place, on what came of the candidates offered in the validation weeks.

    So a probability is that of the event happening within a time as long as the validation, for users who buy at all.
    """
    ranker.scale.fill_(1.0)
    ranker.offset.fill_(0.0)
    found = Calibration.none(len(HEADS))
    if len(validation.users):
        logits = score_candidates(ranker, towers, validation.items, validation.users, validation.rows)
        flat = logits.reshape(-1, len(HEADS))
        there = (validation.rows >= 0).reshape(-1).astype(np.float32)
        found = Calibration.fit(flat, validation.labels.reshape(flat.shape), there)
    ranker.set_calibration(found.scale, found.offset)
    if isinstance(ranker, FrameRanker):
        ranker.model.calibration = found
    return found


def judge_ranker(
    ranker: CandidateRanker,
    towers: TwoTower,
    offered: Offered,
    heads: Sequence[str],
    *,
    k: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Every figure of one CTR model on one split.

    Args:
        ranker: calibrated. towers: the two-tower. offered: the split's candidates. heads: those that were trained.
        k: the cut of NDCG. clock: seconds.

    Returns:
        ``heads``: the metrics of :func:`~recsys_plugin.training.zoo.metrics.binary_metrics` by head;
        ``recall@k`` and ``ndcg@k`` of the ranking against all purchases, not only those offered;
        ``ndcg@k standard error`` over users; ``users``; ``milliseconds_per_user`` in this process. Empty for no user.
    """
    if not len(offered.users):
        return {}
    started = clock()
    logits = score_candidates(ranker, towers, offered.items, offered.users, offered.rows)
    seconds = clock() - started
    there = offered.rows >= 0
    who = np.repeat(np.arange(len(there)), there.shape[1])
    chance = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    by_head = {}
    for head in heads:
        position = HEADS.index(head)
        by_head[head] = binary_metrics(
            offered.labels[..., position].reshape(-1),
            chance[..., position].reshape(-1),
            weights=there.reshape(-1).astype(np.float32),
            group=who,
            lists=who,
            k=k,
        )
    main = HEADS.index("purchase" if "purchase" in heads else heads[0])
    ranked = rank_candidates(logits, offered.rows, tuple(heads))
    values = list_ndcg_values(offered.labels[..., main].reshape(-1), logits[..., main].reshape(-1), who, k=k)
    spread = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {
        "heads": by_head,
        **ranking_metrics(ranked, offered.truth, k=k),
        f"ndcg@{k} standard error": spread,
        "milliseconds_per_user": round(1000.0 * seconds / len(there), 3),
    }
