"""What a policy would have earned, from what another one did: importance weighting and its doubly robust relatives.

With importance weights w = P(evaluated policy does this) / P(logging policy does this), rewards r, predicted rewards q
of what was done and v = Σ P(evaluated) · q over all that could have been done:

======== ===================================================== ==================================================
ips      mean(w r)                                             unbiased; Horvitz and Thompson 1952
snips    mean(w r) / mean(w)                                   steadier, biased by order 1/n; Swaminathan and
                                                               Joachims 2015
dr       mean(v + w (r - q))                                   unbiased if w or q is right; Dudík et al. 2014
sndr     mean(v) + mean(w (r - q)) / mean(w)                   both of the above
switch   mean(v + 1[w ≤ τ] w (r - q))                          model alone where weights are large; Wang et al. 2017
dm       mean(v)                                               the model alone: as good as the model is
======== ===================================================== ==================================================

Clipping replaces w by min(w, λ) in all of them: less variance, for a bias towards what was logged.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import InvalidInput, NoOverlap

__all__ = ["ESTIMATORS", "Decisions", "Estimate", "Estimator", "Interval", "estimate"]

Estimator = Literal["ips", "snips", "dr", "sndr", "switch", "dm"]
Interval = Literal["normal", "bootstrap"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

_Array = NDArray[np.float64]
#: Where wrong input is called too far from 1 to be rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Decisions:
    """n logged decisions: each an item shown at a position, or whatever else has a propensity.

    Attributes:
        rewards: float64 ``[n]``.
        logged: float64 ``[n]``, in (0, 1]: the propensity under the policy that logged.
        target: float64 ``[n]``, from 0 to 1: under the policy that is evaluated. To give weights as they are, such as
            products over a page, set ``logged`` to 1 and this to the weights: it may be above 1 only then.
        groups: int64 ``[n]``, which decisions were made together, as on one page: they are not independent, and are
            drawn together for intervals.
        predicted: float64 ``[n]``, q, or ``None`` without a reward model.
        expected: float64 ``[n]``, v, or ``None``.

    Raises:
        InvalidInput: if shapes disagree, there is no decision, a value is NaN or infinite, a logged propensity is 0
            (what cannot have been done) or above 1, or a target propensity is negative.
    """

    rewards: _Array
    logged: _Array
    target: _Array
    groups: NDArray[np.int64]
    predicted: _Array | None = None
    expected: _Array | None = None

    def __post_init__(self) -> None:
        count = len(self.rewards)
        if count == 0:
            raise InvalidInput("off-policy evaluation: there is no decision to learn from")
        for name in ("rewards", "logged", "target", "groups", "predicted", "expected"):
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != (count,):
                raise InvalidInput(f"off-policy evaluation: {name} has shape {values.shape}, and ({count},) is wanted")
            if not np.isfinite(values).all():
                line = int(np.flatnonzero(~np.isfinite(values))[0])
                raise InvalidInput(f"off-policy evaluation: {name} is {values[line]} in decision {line}")
        if (self.logged <= 0.0).any():
            line = int(np.flatnonzero(self.logged <= 0.0)[0])
            raise InvalidInput(
                f"off-policy evaluation: decision {line} was logged with the propensity {self.logged[line]}; what was "
                "done cannot have had none"
            )
        if (self.logged > 1.0 + _ROUNDING).any() or (self.target < 0.0).any():
            raise InvalidInput("off-policy evaluation: a propensity is outside 0 … 1")
        if (self.predicted is None) != (self.expected is None):
            raise InvalidInput("off-policy evaluation: predicted and expected rewards come together")

    @property
    def weights(self) -> _Array:
        """Importance weights, float64 ``[n]``."""
        return self.target / self.logged


@dataclass(frozen=True, slots=True)
class Estimate:
    """One estimator's answer."""

    estimator: Estimator
    value: float
    """Reward for each decision under the evaluated policy."""
    low: float
    high: float
    standard_error: float
    """Of groups drawn anew, not of decisions."""
    level: float
    """Of the interval ``low`` … ``high``, such as 0.95."""
    interval: Interval
    decisions: int
    groups: int
    effective_sample_size: float
    """(Σw)² / Σw² (Kish 1965): as many decisions of the evaluated policy itself would say about as much."""
    mean_weight: float
    """About 1 if the logging policy did all that the evaluated one might; the share that it covers, if not."""
    largest_weight: float

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {name: getattr(self, name) for name in self.__slots__}


def estimate(
    decisions: Decisions,
    estimator: Estimator,
    *,
    clip: float | None = None,
    switch: float | None = None,
    interval: Interval = "normal",
    level: float = 0.95,
    replicates: int = 1000,
    generator: np.random.Generator | None = None,
) -> Estimate:
    """The value of the evaluated policy for each decision, with an interval.

    Args:
        decisions: what was logged. estimator: see the table above.
        clip: λ, the largest weight. switch: τ, for ``switch`` only.
        interval: ``normal``: by the influence of each group, clustered; ``bootstrap``: percentiles of groups drawn
            with replacement, which needs a ``generator`` and ``replicates`` draws.
        level: of the interval.

    Raises:
        NoOverlap: if every weight is 0.
        InvalidInput: if a parameter is wrong, or the estimator needs a reward model and there is none.
    """
    _check(decisions, estimator, clip, switch, level)
    weights = decisions.weights
    if not (weights > 0.0).any():
        raise NoOverlap(
            f"off-policy evaluation: the evaluated policy would have done none of the {len(weights)} decisions logged; "
            "log with a policy that explores, or evaluate one nearer to it"
        )
    used = weights if clip is None else np.minimum(weights, clip)
    sums = _group_sums(decisions, estimator, used, switch)
    if len(sums) < 2:
        raise InvalidInput("off-policy evaluation: one group of decisions cannot tell how much groups vary")
    value = _value(sums.sum(axis=0), estimator)
    influence = _influence(sums, estimator, value)
    groups = len(sums)
    error = float(np.sqrt((influence**2).sum() * groups / (groups - 1)))
    if interval == "normal":
        half = NormalDist().inv_cdf(0.5 + level / 2.0) * error
        low, high = value - half, value + half
    else:
        if generator is None:
            raise InvalidInput("off-policy evaluation: a bootstrap needs a generator")
        drawn = _bootstrap(sums, estimator, replicates, generator)
        low, high = (float(edge) for edge in np.quantile(drawn, (0.5 - level / 2.0, 0.5 + level / 2.0)))
    return Estimate(
        estimator=estimator,
        value=value,
        low=low,
        high=high,
        standard_error=error,
        level=level,
        interval=interval,
        decisions=len(weights),
        groups=groups,
        effective_sample_size=float(used.sum() ** 2 / (used**2).sum()),
        mean_weight=float(weights.mean()),
        largest_weight=float(used.max()),
    )


def _check(decisions: Decisions, estimator: Estimator, clip: float | None, switch: float | None, level: float) -> None:
    if estimator not in ESTIMATORS:
        raise InvalidInput(f"estimator {estimator!r}: there are {', '.join(ESTIMATORS)}")
    if estimator not in ("ips", "snips") and decisions.predicted is None:
        raise InvalidInput(f"estimator {estimator}: a reward model is needed; ips and snips do without one")
    if (estimator == "switch") != (switch is not None):
        raise InvalidInput("switch: the estimator switch needs a threshold, and the others take none")
    for name, value in (("clip", clip), ("switch", switch)):
        if value is not None and not value > 0.0:
            raise InvalidInput(f"{name}: {value} is not above 0")
    if not 0.0 < level < 1.0:
        raise InvalidInput(f"level: {level} is not between 0 and 1")


def _group_sums(decisions: Decisions, estimator: Estimator, weights: _Array, switch: float | None) -> _Array:
    """``[groups, 4]``: decisions, sums of what is plainly averaged, of what is weighted, and of the weights."""
    nothing = np.zeros_like(weights)
    plain, weighted = nothing, weights * decisions.rewards
    if decisions.predicted is not None and decisions.expected is not None and estimator not in ("ips", "snips"):
        plain, weighted = decisions.expected, weights * (decisions.rewards - decisions.predicted)
        if estimator == "dm":
            weighted = nothing
        elif switch is not None:
            weighted = np.where(weights <= switch, weighted, 0.0)
    _, group = np.unique(decisions.groups, return_inverse=True)
    columns = (np.ones_like(weights), plain, weighted, weights)
    return np.stack([np.bincount(group, column) for column in columns], axis=1)


def _value(sums: _Array, estimator: Estimator) -> float:
    """Of the four sums over all groups."""
    return float(_values(sums[None], estimator)[0])


def _values(sums: _Array, estimator: Estimator) -> _Array:
    """float64 ``[m]`` of m times four sums."""
    count, plain, weighted, weights = sums.T
    normaliser = weights if estimator in ("snips", "sndr") else count
    # A replicate without any weight says nothing of rewards: self-normalised, it counts as none.
    result: _Array = plain / count + np.divide(
        weighted, normaliser, out=np.zeros_like(weighted), where=normaliser > 0.0
    )
    return result


def _influence(sums: _Array, estimator: Estimator, value: float) -> _Array:
    """How far each group pulls the value, ``[groups]``; the delta method for ratios."""
    count, plain, weighted, weights = sums.T
    if estimator in ("snips", "sndr"):
        mean, ratio = plain.sum() / count.sum(), weighted.sum() / weights.sum()
        pulls: _Array = (plain - mean * count) / count.sum() + (weighted - ratio * weights) / weights.sum()
    else:
        pulls = (plain + weighted - value * count) / count.sum()
    return pulls


def _bootstrap(sums: _Array, estimator: Estimator, replicates: int, generator: np.random.Generator) -> _Array:
    """Values of groups drawn with replacement, ``[replicates]``."""
    if replicates < 100:
        raise InvalidInput(f"replicates: {replicates} are too few for percentiles; 100 at least")
    groups, found = len(sums), np.empty((replicates, sums.shape[1]))
    for replicate in range(replicates):
        drawn = generator.integers(0, groups, groups)
        found[replicate] = np.bincount(drawn, minlength=groups) @ sums
    return _values(found, estimator)
