"""Predicted rewards for the doubly robust estimators, each made by a model that has not seen that page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput

__all__ = ["CrossFittedRewards", "RewardModel", "boosted_rewards"]

_Array = NDArray[np.float64]
_Progress = Callable[[str, int, int], None]


class RewardModel(Protocol):
    """The part of a scikit-learn regressor that is used."""

    def fit(self, features: _Array, rewards: _Array) -> Any:
        """Learn from float64 ``[n, d]`` and ``[n]``."""

    def predict(self, features: _Array) -> _Array:
        """Expected rewards, float64 ``[n]``."""


def boosted_rewards(seed: int) -> RewardModel:
    """Gradient-boosted trees on squared error, small enough for rare rewards: predictions are expectations."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model: RewardModel = HistGradientBoostingRegressor(
        max_iter=60, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=100, random_state=seed
    )
    return model


class CrossFittedRewards:
    """Reward models of ``folds`` parts of the log (Chernozhukov et al. 2018): a page's own rewards never predict it.

    Args:
        features: float64 ``[n, d]`` of the logged decisions. rewards: float64 ``[n]``.
        groups: int64 ``[n]``: decisions of one page are of one fold.
        make: an untrained model for a seed.
        folds: at least 2. seed: fixes folds and models. tell: told the progress.

    Raises:
        InvalidInput: if a feature is infinite, or there are fewer groups than folds.
    """

    def __init__(
        self,
        features: _Array,
        rewards: _Array,
        groups: NDArray[np.int64],
        *,
        make: Callable[[int], RewardModel] = boosted_rewards,
        folds: int = 3,
        seed: int = 0,
        tell: _Progress = lambda name, done, total: None,
    ) -> None:
        known, group = np.unique(groups, return_inverse=True)
        if folds < 2 or len(known) < folds:
            raise InvalidInput(f"reward model: {len(known)} pages cannot be parted into {folds} folds of 2 or more")
        if np.isinf(features).any():
            raise InvalidInput("reward model: a feature is infinite")
        fold_of_group = np.random.default_rng(seed).permutation(len(known)) % folds
        self._groups, self._fold_of_group = known, fold_of_group
        fold = fold_of_group[group]
        self._models: list[RewardModel] = []
        for number in range(folds):
            tell("reward model", number, folds)
            others = fold != number
            model = make(seed + number)
            model.fit(features[others], rewards[others])
            self._models.append(model)
        tell("reward model", folds, folds)

    def predict(self, features: _Array, groups: NDArray[np.int64]) -> _Array:
        """Expected rewards float64 ``[m]`` of lines of the groups that it was made with.

        Raises:
            InvalidInput: if a group is not one of those.
        """
        place = np.minimum(np.searchsorted(self._groups, groups), len(self._groups) - 1)
        if (self._groups[place] != groups).any():
            raise InvalidInput("reward model: a page is asked about that was not in the log")
        fold = self._fold_of_group[place]
        result = np.empty(len(features))
        for number, model in enumerate(self._models):
            lines = fold == number
            if lines.any():
                result[lines] = model.predict(features[lines])
        return result
