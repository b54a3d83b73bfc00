"""Communities: never smaller than allowed, the same for the same seed, and silent about what few members did."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.description import Model
from recsys_plugin.export.export import _stating_privacy
from recsys_plugin.pipeline.people import exported_people
from recsys_plugin.privacy.budget import read_budget
from recsys_plugin.pseudonyms import Pseudonyms, of_halves
from recsys_plugin.settings import Settings
from recsys_plugin.training.communities import communities_of, people_now
from recsys_plugin.training.run import TrainingRun

NAMES = Pseudonyms("a key of sixteen bytes")
#: Two groups of users who point two ways, with what each buys; everybody buys bread.
GROUPS = {"tea": (30, [1.0, 0.1]), "coffee": (25, [0.1, 1.0])}


def unit(rows: list[list[float]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    vectors = np.array(rows, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


@given(st.integers(0, 80), st.integers(2, 30), st.integers(0, 2**31), st.sampled_from([None, 1, 7, 60]))
def test_no_community_is_smaller_than_allowed(users: int, least: int, seed: int, count: int | None) -> None:
    generator = np.random.default_rng(seed)
    vectors = unit([*generator.standard_normal((users, 3)), [1.0, 0.0, 0.0]])[:users]
    centroids, labels = communities_of(vectors, least=least, seed=seed, count=count)
    if users < least:
        assert (len(centroids), set(labels)) == (0, {-1} if users else set())
        return
    assert np.bincount(labels, minlength=len(centroids)).min() >= least
    # As the served graph assigns them.
    assert labels.tolist() == (vectors @ centroids.T).argmax(axis=1).tolist()
    again, _ = communities_of(vectors, least=least, seed=seed, count=count)
    assert again.tolist() == centroids.tolist()


def test_groups_far_apart_are_found() -> None:
    generator = np.random.default_rng(0)
    directions = np.repeat(np.eye(3), 40, axis=0)
    vectors = unit((directions + 0.1 * generator.standard_normal(directions.shape)).tolist())
    _, labels = communities_of(vectors, least=20, seed=3, count=3)
    assert [len(set(labels[start : start + 40])) for start in (0, 40, 80)] == [1, 1, 1]
    assert len(set(labels)) == 3


def test_users_who_are_all_alike_are_one_community() -> None:
    vectors = unit([[1.0, 1.0]] * 50)
    centroids, labels = communities_of(vectors, least=10, count=4)
    assert (len(centroids), set(labels)) == (1, {0})


@dataclass
class Shop:
    """What :func:`people_now` needs of a training run."""

    feature_data: Path
    events: pd.DataFrame
    items: pd.DataFrame
    item_ids: pd.Index[str] = field(init=False)
    progress: Any = lambda what, done, total: None

    def __post_init__(self) -> None:
        self.item_ids = pd.Index(self.items["item_id"])

    @property
    def dataset(self) -> Shop:
        return self

    def frame(self, table: str, columns: list[str], **options: Any) -> pd.DataFrame:
        return (self.events if table == "events" else self.items)[columns]


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    users, vectors, lines = [], [], []
    for group, (size, direction) in GROUPS.items():
        for number in range(size):
            user = f"{group} {number}"
            users.append(user)
            vectors.append(direction)
            lines += [(user, item, "purchase") for item in (group, "bread")]
            # A cup for six of each group: too few to tell of.
            lines += [(user, "cup", "purchase")] if number < 6 else []
    users.append("never bought")
    vectors.append([1.0, 1.0])
    table = pa.table({"user_id": users, "vector": pa.array(unit(vectors).tolist(), pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "user_embedding.parquet")
    items = pd.DataFrame(
        {"item_id": ["bread", "tea", "coffee", "cup"], "category": ["food", "drinks", None, "kitchen"]}
    )
    events = pd.DataFrame(lines, columns=["user_id", "item_id", "event_type"])
    return cast(TrainingRun, Shop(tmp_path, events, items))


def test_people_are_buyers_who_did_not_opt_out(run: TrainingRun) -> None:
    gone = {"tea 0", NAMES.of("tea 1"), "somebody else"}
    people = people_now(run, NAMES, opted_out=gone, least=10)
    known = {of_halves(*pair) for pair in people.pseudonyms.tolist()}
    assert known == {NAMES.of(f"{group} {number}") for group, (size, _) in GROUPS.items() for number in range(size)} - {
        NAMES.of("tea 0"),
        NAMES.of("tea 1"),
    }
    assert people.vectors.shape == (53, 2)
    assert people.communities.sizes.sum() == 53


def test_a_community_is_told_by_what_it_buys_more_than_others(
    run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys_plugin.training.communities._MEAN_SIZE", 2)
    told = people_now(run, NAMES, opted_out=(), least=10, seed=1).communities
    assert sorted(told.sizes.tolist()) == [25, 30]
    first = {int(size): run.item_ids[rows[0]] for size, rows in zip(told.sizes, told.item_rows, strict=True)}
    assert first == {30: "tea", 25: "coffee"}
    cup = run.item_ids.get_loc("cup")
    assert cup not in told.item_rows
    assert "kitchen" not in {name for names in told.categories for name in names}
    # Coffee has no category, and none is made up.
    assert {int(size): names for size, names in zip(told.sizes, told.categories, strict=True)} == {
        30: ("drinks", "food"),
        25: ("food",),
    }


def test_with_too_few_users_there_is_no_community(run: TrainingRun) -> None:
    people = people_now(run, NAMES, opted_out=(), least=100)
    assert (len(people.vectors), len(people.communities.sizes)) == (55, 0)


def test_under_differential_privacy_it_is_told_by_noisy_counts(run: TrainingRun, tmp_path: Path) -> None:
    """What is spent is stated with what is told, in the account, and in the model's parameters."""
    settings = Settings(home=tmp_path, pseudonym_key="0123456789abcdef0123456789abcdef")
    made = exported_people(settings, run, least=10, epsilon=8.0, most=3, budget=20.0)
    assert made is not None
    epsilon = made.communities.epsilon
    assert epsilon is not None
    assert 8.0 <= epsilon < 8.001
    assert read_budget(settings).epsilon == epsilon
    assert made.communities.sizes.min() >= 10
    (model,) = _stating_privacy((Model("communities", "", (), ()),), made)
    assert json.loads(model.parameters["differential_privacy"]) == {
        "epsilon": epsilon, "delta": 0.0, "mechanism": "discrete Laplace", "protects": "a user",
    }  # fmt: skip
    exported_people(settings, run, least=10, epsilon=8.0, most=3)
    with pytest.raises(CheckFailed, match="would spend epsilon 8"):
        exported_people(settings, run, least=10, epsilon=8.0, most=3)
    exact = exported_people(settings, run, least=10)
    assert exact is not None
    assert exact.communities.epsilon is None
    assert not _stating_privacy((Model("communities", "", (), ()),), exact)[0].parameters
