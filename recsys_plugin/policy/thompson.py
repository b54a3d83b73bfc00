"""Thompson sampling: each position shows the best item under one plausible last layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput
from recsys_plugin.policy.exploration import Choice, ExplorationPolicy, PropensityKind
from recsys_plugin.policy.last_layer import BayesianLastLayer, Outcomes
from recsys_plugin.policy.pools import Logits, checked_page, checked_pool

__all__ = ["ThompsonSampling"]


class ThompsonSampling(ExplorationPolicy):
    """At each position, draws weights from the posterior and shows the item that they score best of those left.

    Scores are ``logits + features · weights``. Positions draw independently of each other, so each propensity is one
    probability under the posterior: that the item is the best of those left.

    With a ``seed`` a set of ``draws`` weights is made once, and each position picks one of them, all alike (ensemble
    sampling; Lu and Van Roy 2017). The propensity is then **exact**: the share of the set that scores the item best.
    Without a seed each page makes a set of its own, the propensity is the same share, and as the set contains the
    draw that was used, it is an **estimate** of the posterior's probability p with mean p + (1 - p) / ``draws``:
    never 0, so that importance weights are at most ``draws``, and too high for items that are hardly ever shown.
    :meth:`propensities` and :meth:`marginals` need a seed, since otherwise they would have to draw in secret.

    Args:
        posterior: of the last layer. path: where it was read from, for :attr:`name`.
        draws: size of the set; the largest importance weight.
        seed: makes the set; the same seed and posterior, the same set. ``None``: each page makes one.

    Raises:
        InvalidInput: if ``draws`` is below 1.
    """

    needs_features = True

    def __init__(
        self, posterior: BayesianLastLayer, *, draws: int = 128, seed: int | None = 0, path: Path | None = None
    ) -> None:
        if draws < 1:
            raise InvalidInput(f"draws: {draws} is below 1")
        self.posterior, self.draws, self.seed, self.path = posterior, draws, seed, path
        self._weights = None if seed is None else posterior.draw(draws, np.random.default_rng(seed))

    @classmethod
    def load(cls, path: Path, *, draws: int = 128, seed: int | None = 0) -> ThompsonSampling:
        """With the posterior that :meth:`BayesianLastLayer.save` wrote."""
        return cls(BayesianLastLayer.load(path), draws=draws, seed=seed, path=path)

    def update(
        self, features: Logits, outcomes: Outcomes, offset: Logits | None = None, *, discount: float = 1.0
    ) -> ThompsonSampling:
        """The policy after more outcomes; see :meth:`BayesianLastLayer.updated`. ``offset`` are the served logits."""
        posterior = self.posterior.updated(features, outcomes, offset, discount=discount)
        return ThompsonSampling(posterior, draws=self.draws, seed=self.seed, path=self.path)

    @property
    def name(self) -> str:
        """``thompson:<path>``, or ``thompson`` if it was not read from a file."""
        return "thompson" if self.path is None else f"thompson:{self.path}"

    @property
    def kind(self) -> PropensityKind:
        """Exact with a seed, else estimated."""
        return "estimated" if self._weights is None else "exact"

    def choose(
        self, logits: Logits, k: int, generator: np.random.Generator, *, features: Logits | None = None
    ) -> Choice:
        """One number is drawn for each position, and without a seed the set of weights before them."""
        pool = checked_pool(logits, k)
        count = min(k, len(pool))
        weights = self.posterior.draw(self.draws, generator) if self._weights is None else self._weights
        used = (generator.random(count) * self.draws).astype(np.int64).tolist()
        ballots = _Ballots(self._scores(pool, features, weights)) if count else None
        chosen, propensities = np.empty(count, dtype=np.int64), np.empty(count)
        for position, voter in enumerate(used):
            assert ballots is not None
            item = ballots.vote_of(voter)
            chosen[position], propensities[position] = item, ballots.take(item)
        return Choice(chosen, propensities, self.kind)

    def propensities(
        self, logits: Logits, positions: NDArray[np.int64], *, features: Logits | None = None
    ) -> NDArray[np.float64]:
        """Exact: the share of the set that scores the item best of those left; 0 if none does."""
        pool = checked_pool(logits, len(positions))
        page = checked_page(pool, positions)
        if not len(page):
            return np.empty(0)
        ballots = _Ballots(self._scores(pool, features, self._set()))
        return np.array([ballots.take(item) for item in page.tolist()])

    def marginals(self, logits: Logits, k: int, *, features: Logits | None = None) -> NDArray[np.float64]:
        """Estimated from a thousand pages that a generator seeded with ``seed`` makes.

        Positions draw independently, so orders are many; the standard error of a probability p is
        sqrt(p (1 - p) / 1000), and what never came up is 0. The first column is exact.
        """
        pool = checked_pool(logits, k)
        count = min(k, len(pool))
        result = np.zeros((len(pool), count))
        if not count:
            return result
        scores = self._scores(pool, features, self._set())
        generator, places = np.random.default_rng(self.seed), np.arange(count)
        for _ in range(_PAGES):
            page = self.choose(logits, count, generator, features=features).positions
            result[page, places] += 1.0 / _PAGES
        result[:, 0] = np.bincount(scores.argmax(axis=1), minlength=len(pool)) / self.draws
        return result

    def _set(self) -> NDArray[np.float64]:
        if self._weights is None:
            raise InvalidInput("thompson: only a policy with a seed can tell the propensities of a given page")
        return self._weights

    def _scores(
        self, pool: NDArray[np.float64], features: Logits | None, weights: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """``[draws, pool]``; in float32 since finding maxima is what takes the time."""
        width = len(self.posterior.names)
        if features is None:
            raise InvalidInput(f"thompson: features [pool, {width}] are needed: {', '.join(self.posterior.names)}")
        design = np.asarray(features, dtype=np.float64)
        if design.shape != (len(pool), width):
            raise InvalidInput(f"thompson: features of shape {design.shape}, and {(len(pool), width)} is wanted")
        if not np.isfinite(design).all():
            raise InvalidInput("thompson: the features hold NaN or infinity")
        scores: NDArray[np.float32] = (weights @ design.T + pool).astype(np.float32)
        return scores


#: Pages that :meth:`ThompsonSampling.marginals` makes.
_PAGES = 1000


class _Ballots:
    """Each draw votes for the item it scores best; a vote for an item that is gone goes to the next best.

    Args:
        scores: float32 [draws, pool]; changed in place.
    """

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self._scores = scores
        self._votes = scores.argmax(axis=1)

    def vote_of(self, draw: int) -> int:
        return int(self._votes[draw])

    def take(self, item: int) -> float:
        """Take an item away, and say which share of the votes it had."""
        voters = np.flatnonzero(self._votes == item)
        self._scores[:, item] = -np.inf
        if voters.size:
            self._votes[voters] = self._scores[voters].argmax(axis=1)
        return voters.size / len(self._votes)
