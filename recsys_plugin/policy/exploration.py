"""Which candidates a page shows, and how likely it was to show them: the policies behind one interface.

A page that always shows the best-scored items teaches nothing about the others, and what it logs cannot say how
another order would have done. An :class:`ExplorationPolicy` picks k of a pool of candidates with randomness that is
passed in, and returns with each item the probability that it stood where it stands.

Two probabilities have to be told apart, because off-policy estimators need one or the other:

- the **conditional** propensity, P(item at position j | the items at positions 1 … j-1): what :meth:`choose` and
  :meth:`propensities` return. Its product over positions 1 … j is the probability of that beginning of a page:
  estimators of whole pages (standard slate IPS) and of cascades (reward-interaction IPS; McInerney et al. 2020) use it.
- the **marginal** position propensity, P(item at position j), whatever stands before: :meth:`marginals`. The
  item-position model (independent IPS; Li et al. 2018) uses it. Its sum over positions is the probability of being on
  the page.

At position 1, and so for pages of one item (a plain contextual bandit), both are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput
from recsys_plugin.policy.marginals import epsilon_greedy_marginals, plackett_luce_marginals
from recsys_plugin.policy.pools import Logits, best_order, checked_page, checked_pool, largest

__all__ = [
    "APPROXIMATE",
    "SCORE_CEILING",
    "Choice",
    "EpsilonGreedy",
    "ExplorationPolicy",
    "GumbelTopK",
    "NoExploration",
    "PropensityKind",
    "calibrated_logits",
]

PropensityKind = Literal["exact", "estimated"]
#: What propensities are called once rules have rearranged what a policy chose: they are those that it chose with.
APPROXIMATE = "approximate"

#: The highest score that a served model can give: all three probabilities at 1, times their weights in the score.
SCORE_CEILING = 1.4
#: Probabilities are kept this far from 0 and 1: about what float32 can tell from 1.
_EDGE = 1e-7


def calibrated_logits(scores: Logits, *, ceiling: float = SCORE_CEILING) -> NDArray[np.float64]:
    """Log-odds of served scores, in the same order.

    A served score is the sum of calibrated probabilities (Platt-scaled in the exported graph) with the weights that
    clicks, carts and purchases have in it: a rate between 0 and ``ceiling``. Divided by the ceiling it is a weighted
    mean of probabilities, whose log-odds are what a temperature can be applied to. For rare events the ceiling shifts
    all log-odds alike, which changes no propensity.

    Args:
        scores: float [..., n], each from 0 to ``ceiling``; the edges are kept a ten-millionth away from 0 and 1.
        ceiling: what a score would be if every event were certain; 1.0 for plain probabilities.

    Raises:
        InvalidInput: if the ceiling is not positive, or a score is NaN or outside 0 … ``ceiling``.
    """
    if not ceiling > 0.0:
        raise InvalidInput(f"ceiling: {ceiling} is not above 0")
    share = np.asarray(scores, dtype=np.float64) / ceiling
    # A float32 sum of weights may be above the ceiling by its rounding.
    wrong = ~((share >= -1e-6) & (share <= 1.0 + 1e-6))
    if wrong.any():
        raise InvalidInput(
            f"scores: {np.asarray(scores)[wrong].flat[0]} is not a rate from 0 to {ceiling}; log-odds are of "
            "probabilities (logits need no conversion)"
        )
    share = np.clip(share, _EDGE, 1.0 - _EDGE)
    return np.log(share) - np.log1p(-share)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy put on a page, first position first."""

    positions: NDArray[np.int64]
    """``[k]``: places in the pool, counted from 0, each at most once."""
    propensities: NDArray[np.float64]
    """``[k]``, in (0, 1]: P(item at this position | the items before it)."""
    kind: PropensityKind
    """``estimated`` where the propensities come from sampling; the policy says with what error."""


class ExplorationPolicy(ABC):
    """Picks k of a pool of scored candidates.

    Every policy takes ``logits`` ``[pool]``: calibrated log-odds (:func:`calibrated_logits`), higher is better. A pool
    smaller than k gives a page of the whole pool; an empty pool, or k = 0, an empty page. The same generator state
    gives the same page. Each method raises ``InvalidInput`` if a logit is NaN or infinite, ``logits`` has not one
    dimension, or k is below 0.

    Attributes:
        needs_features: whether the methods must be given ``features``, float ``[pool, d]``; others ignore them.
    """

    needs_features: bool = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The policy as settings name it, with its parameters: ``gumbel:0.3``. For logs."""

    @property
    @abstractmethod
    def kind(self) -> PropensityKind:
        """What the propensities of this policy are."""

    @abstractmethod
    def choose(
        self, logits: Logits, k: int, generator: np.random.Generator, *, features: Logits | None = None
    ) -> Choice:
        """Pick up to k of the pool, with conditional propensities."""

    @abstractmethod
    def propensities(
        self, logits: Logits, positions: NDArray[np.int64], *, features: Logits | None = None
    ) -> NDArray[np.float64]:
        """With which probability this policy would make a given page: float64 ``[k]``, conditional.

        Args:
            logits: ``[pool]``. features: as for :meth:`choose`.
            positions: ``[k]`` places in the pool, first position first; another policy may have chosen them, and then
                a propensity may be 0.

        Raises:
            InvalidInput: if a place is outside the pool or comes twice.
        """

    @abstractmethod
    def marginals(self, logits: Logits, k: int, *, features: Logits | None = None) -> NDArray[np.float64]:
        """P(item i stands at position j): float64 ``[pool, min(k, pool)]``, each column summing to 1.

        Not meant for the time of a request: it costs milliseconds.
        """

    def choose_many(
        self,
        logits: Sequence[Logits],
        k: int,
        generator: np.random.Generator,
        *,
        features: Sequence[Logits] | None = None,
    ) -> list[Choice]:
        """A choice for each user's pool, which may differ in size: the same as one :meth:`choose` after the other."""
        if features is None:
            return [self.choose(each, k, generator) for each in logits]
        return [self.choose(each, k, generator, features=beside) for each, beside in zip(logits, features, strict=True)]


class NoExploration(ExplorationPolicy):
    """The best first, every time; equal logits in pool order. Propensities are 1."""

    @property
    def name(self) -> str:
        """``none``."""
        return "none"

    @property
    def kind(self) -> PropensityKind:
        """Exact."""
        return "exact"

    def choose(
        self, logits: Logits, k: int, generator: np.random.Generator, *, features: Logits | None = None
    ) -> Choice:
        """The k best; nothing is drawn from the generator."""
        best = best_order(checked_pool(logits, k))[:k]
        return Choice(best, np.ones(len(best)), "exact")

    def propensities(
        self, logits: Logits, positions: NDArray[np.int64], *, features: Logits | None = None
    ) -> NDArray[np.float64]:
        """1 where the item is the best that is left, else 0."""
        pool = checked_pool(logits, len(positions))
        return _is_best_left(pool, checked_page(pool, positions)).astype(np.float64)

    def marginals(self, logits: Logits, k: int, *, features: Logits | None = None) -> NDArray[np.float64]:
        """1 for the best item at the first position, and so on."""
        return epsilon_greedy_marginals(best_order(checked_pool(logits, k)), min(k, len(logits)), 0.0)


class EpsilonGreedy(ExplorationPolicy):
    """At each position, with probability ε, any of the remaining items (each alike), else the best of them.

    With r items remaining the propensity is ε/r, and 1 - ε more for the best one.

    Args:
        epsilon: from 0 to 1.

    Raises:
        InvalidInput: if ``epsilon`` is outside.
    """

    def __init__(self, epsilon: float) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise InvalidInput(f"epsilon: {epsilon} is not from 0 to 1")
        self.epsilon = float(epsilon)

    @property
    def name(self) -> str:
        """``epsilon:<epsilon>``."""
        return f"epsilon:{self.epsilon:g}"

    @property
    def kind(self) -> PropensityKind:
        """Exact."""
        return "exact"

    def choose(
        self, logits: Logits, k: int, generator: np.random.Generator, *, features: Logits | None = None
    ) -> Choice:
        """Two numbers are drawn for each position: whether to explore, and which item then."""
        pool = checked_pool(logits, k)
        count = min(k, len(pool))
        explore, which = generator.random((2, count))
        left = best_order(pool).tolist()
        chosen = np.empty(count, dtype=np.int64)
        remaining = len(pool) - np.arange(count, dtype=np.float64)
        propensities = self.epsilon / remaining
        for position, (explores, place) in enumerate(
            zip((explore < self.epsilon).tolist(), (which * remaining).astype(np.int64).tolist(), strict=True)
        ):
            at = place if explores else 0
            chosen[position] = left.pop(at)
            if at == 0:
                propensities[position] += 1.0 - self.epsilon
        return Choice(chosen, propensities, "exact")

    def propensities(
        self, logits: Logits, positions: NDArray[np.int64], *, features: Logits | None = None
    ) -> NDArray[np.float64]:
        """ε over what is left, and 1 - ε more where the item is the best that is left."""
        pool = checked_pool(logits, len(positions))
        page = checked_page(pool, positions)
        remaining = len(pool) - np.arange(len(page), dtype=np.float64)
        result: NDArray[np.float64] = self.epsilon / remaining + (1.0 - self.epsilon) * _is_best_left(pool, page)
        return result

    def marginals(self, logits: Logits, k: int, *, features: Logits | None = None) -> NDArray[np.float64]:
        """Exact, by following how many better items are left; see :func:`epsilon_greedy_marginals`."""
        return epsilon_greedy_marginals(best_order(checked_pool(logits, k)), min(k, len(logits)), self.epsilon)


class GumbelTopK(ExplorationPolicy):
    """Sampling without replacement from the softmax of ``logits / temperature``: the Plackett-Luce model.

    Gumbel noise is added to each and the k largest sums are the page (Kool et al. 2019); the propensity is the
    softmax over what is left.

    Args:
        temperature: above 0; towards 0 the best come first, the larger it is the more alike all items are.

    Raises:
        InvalidInput: if the temperature is not a finite number above 0.
    """

    def __init__(self, temperature: float) -> None:
        if not 0.0 < temperature < np.inf:
            raise InvalidInput(f"temperature: {temperature} is not a finite number above 0; for no noise use none")
        self.temperature = float(temperature)

    @property
    def name(self) -> str:
        """``gumbel:<temperature>``."""
        return f"gumbel:{self.temperature:g}"

    @property
    def kind(self) -> PropensityKind:
        """Exact."""
        return "exact"

    def choose(
        self, logits: Logits, k: int, generator: np.random.Generator, *, features: Logits | None = None
    ) -> Choice:
        """One number is drawn for each item of the pool."""
        scaled = self._scaled(logits, k)
        noisy = scaled + generator.gumbel(size=len(scaled))
        page = largest(noisy, min(k, len(scaled)))
        return Choice(page, _plackett_luce(scaled, page), "exact")

    def propensities(
        self, logits: Logits, positions: NDArray[np.int64], *, features: Logits | None = None
    ) -> NDArray[np.float64]:
        """The softmax over what is left."""
        scaled = self._scaled(logits, len(positions))
        return _plackett_luce(scaled, checked_page(scaled, positions))

    def marginals(self, logits: Logits, k: int, *, features: Logits | None = None) -> NDArray[np.float64]:
        """Exact up to the error of numerical integration; see :func:`plackett_luce_marginals`."""
        return plackett_luce_marginals(self._scaled(logits, k), min(k, len(logits)))

    def _scaled(self, logits: Logits, k: int) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            scaled = checked_pool(logits, k) / self.temperature
        if not np.isfinite(scaled).all():
            raise InvalidInput(f"temperature: {self.temperature} is too small for logits of this size")
        return scaled


def _is_best_left(pool: NDArray[np.float64], page: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each item of a page is the best of those that are not before it."""
    left = best_order(pool).tolist()
    result = np.empty(len(page), dtype=np.bool_)
    for position, place in enumerate(page.tolist()):
        result[position] = left[0] == place
        left.remove(place)
    return result


def _plackett_luce(scaled: NDArray[np.float64], page: NDArray[np.int64]) -> NDArray[np.float64]:
    """The softmax of each item of a page over the items that are not before it."""
    if not len(page):
        return np.empty(0)
    chosen = scaled[page]
    rest = scaled - chosen.max()
    rest[page] = -np.inf
    best = rest.max()
    # Sums of what is left are built from the end of the page: subtracting from a total would lose small remainders.
    after = best + chosen.max() + np.log(np.exp(rest - best).sum()) if best > -np.inf else best
    left = np.logaddexp.accumulate(np.append(after, chosen[::-1]))[:0:-1]
    result: NDArray[np.float64] = np.exp(np.minimum(chosen - left, 0.0))
    return result
