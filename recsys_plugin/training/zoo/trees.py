"""The zoo's gradient-boosted trees: LightGBM (Ke et al. 2017) over numbers and target statistics of the codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from safetensors.numpy import load_file, save_file

from recsys_plugin.training.carry import WeightsMisfit
from recsys_plugin.training.zoo.frame import CtrFrame
from recsys_plugin.training.zoo.model import CtrModel, CtrOptions, Fitted, Progress, check_layout

__all__ = ["GradientBoostedTrees", "TargetStatistics", "split_thresholds"]

_Array = np.ndarray[Any, np.dtype[Any]]
_FOLDS = 5
#: Of the validation losses, which are kept: every tenth, since there is one for each tree.
_EVERY = 10
#: What of a leaf's value stays when trees are fitted again to new examples.
_KEPT_LEAF = 0.7
#: Numbers are rounded to multiples of 2^-12: what differs by rounding alone must not part at a split.
GRID = 4096.0


@dataclass(frozen=True, slots=True)
class TargetStatistics:
    """Codes as numbers: the smoothed mean label of each code (Micci-Barreca 2001).

    Attributes:
        tables: one float32 [size] for each code column; code 0 (unknown) has the mean of all.
    """

    tables: tuple[_Array, ...]

    @classmethod
    def of(
        cls, codes: _Array, sizes: tuple[int, ...], labels: _Array, weights: _Array, least: float
    ) -> TargetStatistics:
        """Learn from lines with known labels; ``least`` is the weight of the mean of all, in examples."""
        mean = float(np.average(labels, weights=weights)) if weights.sum() else 0.5
        tables = []
        for column, size in enumerate(sizes):
            total = np.bincount(codes[:, column], weights * labels, minlength=size)
            count = np.bincount(codes[:, column], weights, minlength=size)
            table = ((total + least * mean) / (count + least)).astype(np.float32)
            table[0] = mean
            tables.append(table)
        return cls(tuple(tables))

    def apply(self, codes: _Array) -> _Array:
        """float32 [n, K]."""
        columns = [table[codes[:, column]] for column, table in enumerate(self.tables)]
        return np.stack(columns, axis=1) if columns else np.empty((len(codes), 0), np.float32)


class GradientBoostedTrees(CtrModel):
    """One LightGBM model for each head; trees split on numbers and on the codes' target statistics.

    Statistics of the training lines are made out of fold, so that no line sees its own label. Thresholds are moved to
    the next float32 below, which changes no decision about a float32 and lets ONNX, which compares those, agree.
    """

    name = "lightgbm"

    def __init__(self) -> None:
        super().__init__()
        self.boosters: dict[str, lightgbm.Booster] = {}
        self.statistics: dict[str, TargetStatistics] = {}

    def fit(
        self,
        train: CtrFrame,
        validation: CtrFrame,
        options: CtrOptions,
        seed: int,
        tell: Progress,
        *,
        start: CtrModel | None = None,
    ) -> Fitted:
        """See :meth:`CtrModel.fit`; ``options.epochs`` are boosting rounds.

        The trees of ``start`` keep their splits and their number, and their leaves move towards the new examples.
        """
        self._begin(train, validation)
        self.boosters, self.statistics = {}, {}
        rounds: list[int] = []
        losses: list[float] = []
        for position, head in enumerate(train.heads):
            if head in self.heads:
                tell(self.name, position, len(train.heads))
                earlier = start.boosters.get(head) if isinstance(start, GradientBoostedTrees) else None
                kept, history = self._fit_head(train, validation, position, options, seed, earlier)
                rounds.append(kept)
                losses = losses or history
        tell(self.name, len(train.heads), len(train.heads))
        self._calibrate(validation)
        return Fitted(self.heads, tuple(rounds), tuple(losses), self.calibration.calibrated)

    def _fit_head(
        self,
        train: CtrFrame,
        validation: CtrFrame,
        position: int,
        options: CtrOptions,
        seed: int,
        earlier: lightgbm.Booster | None,
    ) -> tuple[int, list[float]]:
        head = train.heads[position]
        generator = np.random.default_rng(seed + position)
        known = np.flatnonzero(~np.isnan(train.labels[:, position]) & (train.weights > 0))
        labels, weights = train.labels[known, position].astype(np.float64), train.weights[known].astype(np.float64)
        codes = train.codes[known] * (generator.random((len(known), train.codes.shape[1])) >= options.unknown)

        def statistics(lines: _Array) -> TargetStatistics:
            return TargetStatistics.of(codes[lines], train.code_sizes, labels[lines], weights[lines], options.smoothing)

        encoded = np.empty(codes.shape, np.float32)
        fold = generator.integers(0, _FOLDS, len(known))
        for number in range(_FOLDS):
            encoded[fold == number] = statistics(fold != number).apply(codes[fold == number])
        self.statistics[head] = statistics(np.ones(len(known), bool))
        if earlier is not None:
            matrix = _matrix(train.numbers[known], encoded)
            again = earlier.refit(matrix, labels, weight=weights, decay_rate=_KEPT_LEAF, verbose=-1)
            self.boosters[head] = lightgbm.Booster(model_str=_float32_thresholds(again.model_to_string()))
            return again.num_trees(), []
        data = lightgbm.Dataset(_matrix(train.numbers[known], encoded), labels, weight=weights)
        told = ~np.isnan(validation.labels[:, position]) & (validation.weights > 0)
        callbacks: list[Any] = []
        evaluated: dict[str, Any] = {}
        sets: list[lightgbm.Dataset] = []
        if told.any():
            held = self.statistics[head].apply(validation.codes[told])
            sets.append(
                lightgbm.Dataset(
                    _matrix(validation.numbers[told], held),
                    validation.labels[told, position],
                    weight=validation.weights[told],
                    reference=data,
                )
            )
            callbacks = [
                lightgbm.early_stopping(options.patience, verbose=False),
                lightgbm.record_evaluation(evaluated),
            ]
        parameters = {
            "objective": "binary",
            "num_leaves": options.leaves,
            "learning_rate": options.learning_rate,
            "min_data_in_leaf": options.least,
            "feature_fraction": 0.6,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": options.weight_decay,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbose": -1,
        }
        found = lightgbm.train(parameters, data, options.epochs, sets, callbacks=callbacks)
        kept = found.best_iteration or found.current_iteration()
        text = _float32_thresholds(found.model_to_string(num_iteration=kept))
        self.boosters[head] = lightgbm.Booster(model_str=text)
        history = next(iter(evaluated.values()))["binary_logloss"][::_EVERY] if evaluated else []
        return kept, list(history)

    def matrix(self, frame: CtrFrame, head: str) -> _Array:
        """What a head's trees split on: float32 [n, D + K]."""
        return _matrix(frame.numbers, self.statistics[head].apply(frame.codes))

    def onto(self, layout: dict[str, Any], rows: Sequence[_Array]) -> CtrModel:
        """See :meth:`CtrModel.onto`; the trees split on numbers and statistics, which need no change."""
        if layout["number_names"] != self.layout["number_names"] or layout["code_names"] != self.layout["code_names"]:
            raise WeightsMisfit("the trees were grown on other columns")
        moved = GradientBoostedTrees()
        moved.layout, moved.heads, moved.calibration = layout, self.heads, self.calibration
        moved.boosters = dict(self.boosters)
        moved.statistics = {
            head: TargetStatistics(tuple(table[where] for table, where in zip(known.tables, rows, strict=True)))
            for head, known in self.statistics.items()
        }
        return moved

    def logits(self, frame: CtrFrame) -> _Array:
        """Raw scores float32 [n, H]; NaN for heads that were not trained."""
        check_layout(self.layout, frame)
        found = np.full((len(frame), len(frame.heads)), np.nan, np.float32)
        if len(frame):
            for head, booster in self.boosters.items():
                found[:, frame.heads.index(head)] = booster.predict(self.matrix(frame, head), raw_score=True)
        return found

    @property
    def parameters(self) -> int:
        """How many leaves all trees have together."""
        return sum(
            int(text)
            for booster in self.boosters.values()
            for text in re.findall(r"^num_leaves=(\d+)", booster.model_to_string(), re.M)
        )

    def importance(self) -> dict[str, dict[str, float]]:
        """The share of the gain of each column, for each head."""
        names = [*self.layout["number_names"], *self.layout["code_names"]]
        result = {}
        for head, booster in self.boosters.items():
            gain = booster.feature_importance("gain")
            result[head] = {
                name: float(value / max(gain.sum(), 1e-12)) for name, value in zip(names, gain, strict=True)
            }
        return result

    def _save(self, folder: Path) -> dict[str, Any]:
        for head, booster in self.boosters.items():
            booster.save_model(str(folder / f"{head}.lightgbm.txt"))
            tables = {f"{number:03d}": table for number, table in enumerate(self.statistics[head].tables)}
            if tables:
                save_file(tables, folder / f"{head}.statistics.safetensors")
        return {"heads": list(self.boosters)}

    @classmethod
    def _load(cls, folder: Path, layout: dict[str, Any], document: dict[str, Any]) -> CtrModel:
        model = cls()
        for head in document["heads"]:
            model.boosters[head] = lightgbm.Booster(model_file=str(folder / f"{head}.lightgbm.txt"))
            tables = load_file(folder / f"{head}.statistics.safetensors") if layout["code_names"] else {}
            model.statistics[head] = TargetStatistics(tuple(tables[name] for name in sorted(tables)))
        return model


def _matrix(numbers: _Array, encoded: _Array) -> _Array:
    rounded: _Array = (np.rint(numbers.astype(np.float32) * np.float32(GRID)) / np.float32(GRID)).astype(np.float32)
    return np.concatenate([rounded, encoded], axis=1)


def _float32_thresholds(text: str) -> str:
    """The model text with each threshold at the largest float32 that is not above it."""

    def lowered(match: re.Match[str]) -> str:
        exact = np.array(match.group(1).split(), np.float64)
        near = exact.astype(np.float32)
        near = np.where(near.astype(np.float64) > exact, np.nextafter(near, np.float32(-np.inf)), near)
        return "threshold=" + " ".join(repr(float(value)) for value in near.astype(np.float64))

    # Without the sizes, which would no longer be true, LightGBM reads tree after tree.
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.M)
    return re.sub(r"^threshold=(.*)$", lowered, text, flags=re.M)


def split_thresholds(booster: lightgbm.Booster) -> dict[int, _Array]:
    """The sorted float32 thresholds at which the trees part, by column."""
    found: dict[int, set[float]] = {}
    text = booster.model_to_string()
    for columns, values in zip(
        re.findall(r"^split_feature=(.*)$", text, re.M), re.findall(r"^threshold=(.*)$", text, re.M), strict=True
    ):
        for column, value in zip(columns.split(), values.split(), strict=True):
            found.setdefault(int(column), set()).add(float(value))
    return {column: np.array(sorted(values), np.float32) for column, values in found.items()}
