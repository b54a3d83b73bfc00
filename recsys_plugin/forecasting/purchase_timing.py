"""When each user buys next: the BG/NBD model, with the shop's present pace.

Fader, Hardie and Lee (2005), "Counting your customers the easy way: an alternative to the Pareto/NBD model", Marketing
Science 24(2). A user buys at a rate of his own while he is active, and may become inactive after each purchase; rates
and chances of that differ between users as a gamma and a beta distribution do, which all users together teach. So a
user with one purchase is told mostly by the others, and one with many mostly by himself.

The model knows no season: what came of its chances in the weeks before corrects them (Platt scaling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import gammaln, hyp2f1

__all__ = ["LONGEST_DAYS", "BgNbd", "Customers", "Pace", "PurchaseDays", "fit_bg_nbd"]

_Array = np.ndarray[Any, np.dtype[Any]]
#: Days until the next purchase are told up to so many.
LONGEST_DAYS = 365.0
_DAY, _SECOND = 86_400, 1_000_000
_DAYS_PER_WEEK = 7.0
#: Keeps the parameters finite where there is next to nothing to learn from, as in Fader and Hardie's own advice to
#: bound them; too weak to be seen with a few hundred users.
_PENALTY = 1e-5
_PARAMETERS = 4


@dataclass(frozen=True, slots=True)
class Customers:
    """What BG/NBD needs to know of n users who have bought; times in weeks since each one's first purchase.

    Attributes:
        repeats: float64 [n], days with a purchase after the first. last: float64 [n], the latest purchase.
        age: float64 [n], the moment itself.
    """

    repeats: _Array
    last: _Array
    age: _Array

    def take(self, chosen: _Array) -> Customers:
        """Some of them."""
        return Customers(self.repeats[chosen], self.last[chosen], self.age[chosen])


class PurchaseDays:
    """The days on which each of n users bought.

    Args:
        users: int64, numbers of users, one for each purchase. times: int64, microseconds, likewise.
        count: how many users there are.
    """

    def __init__(self, users: _Array, times: _Array, count: int) -> None:
        seconds = times // _SECOND
        order = np.lexsort((seconds, users))
        users, seconds = users[order].astype(np.int64), seconds[order]
        days = seconds // _DAY
        # Of each day the first purchase: from then on the day is known.
        new = np.r_[True, (users[1:] != users[:-1]) | (days[1:] != days[:-1])][: len(users)]
        self._days, self._keys = days[new], (users[new] << 32) + seconds[new]
        self._starts = np.searchsorted(users[new], np.arange(count + 1))
        self.count = count

    def customers(self, moment: pd.Timestamp, users: _Array | None = None) -> tuple[_Array, Customers]:
        """Who had bought before a moment, and what was known of them.

        Args:
            moment: whole seconds; purchases in that second or after it are not known.
            users: int64, which to look at, ascending; all if None.

        Returns:
            int64 [n], numbers of users, and what is known of them.
        """
        asked = np.arange(self.count) if users is None else users
        seconds = moment.value // 1_000_000_000
        start = self._starts[asked]
        bought = np.searchsorted(self._keys, (asked << 32) + seconds, side="left") - start
        there = bought > 0
        start, bought, found = start[there], bought[there], asked[there]
        first, last = self._days[start].astype(np.float64), self._days[start + bought - 1].astype(np.float64)
        now = seconds / _DAY
        weeks = [(value - first) / _DAYS_PER_WEEK for value in (last, now)]
        return found, Customers((bought - 1).astype(np.float64), weeks[0], weeks[1])

    def bought(self, start: pd.Timestamp, end: pd.Timestamp, users: _Array) -> _Array:
        """Whether each of ``users`` bought in [start, end), bool [users]; whole seconds."""
        low, high = (
            np.searchsorted(self._keys, (users << 32) + moment.value // 1_000_000_000, side="left")
            for moment in (start, end)
        )
        # A day that began before the start counts if it went on after it; its first purchase is all that is kept.
        return np.asarray(high > low)

    def days_until_next(self, start: pd.Timestamp, users: _Array) -> _Array:
        """Days from ``start`` to the next purchase day of each of ``users``, float64; infinite where none follows."""
        seconds = start.value // 1_000_000_000
        place = np.searchsorted(self._keys, (users << 32) + seconds, side="left")
        there = place < self._starts[users + 1]
        when = self._keys[np.minimum(place, max(len(self._keys) - 1, 0))] & 0xFFFFFFFF
        return np.where(there, (when - seconds) / _DAY, np.inf)


@dataclass(frozen=True, slots=True)
class BgNbd:
    """The four parameters: rates are gamma(``r``, ``alpha`` weeks), chances to stop are beta(``a``, ``b``)."""

    r: float
    alpha: float
    a: float
    b: float

    def active(self, known: Customers) -> _Array:
        """The chance that each user still buys at all, float64 [n]: equation 8 of the note to the paper."""
        odds = self.a / (self.b + np.maximum(known.repeats, 1.0) - 1.0)
        log_ratio = (self.r + known.repeats) * (np.log(self.alpha + known.age) - np.log(self.alpha + known.last))
        stopped = np.where(known.repeats > 0, odds * np.exp(np.minimum(log_ratio, 700.0)), 0.0)
        return np.asarray(1.0 / (1.0 + stopped))

    def probability(self, known: Customers, weeks: float = 1.0) -> _Array:
        """The chance of at least one purchase in the ``weeks`` after the moment, float64 [n].

        While a user is active his rate is gamma(r + repeats, alpha + age), and he cannot stop before he buys: the time
        to the next purchase is Lomax-distributed.
        """
        shape, scale = self.r + known.repeats, self.alpha + known.age
        return np.asarray(self.active(known) * -np.expm1(-shape * np.log1p(weeks / scale)))

    def days_to_next(self, known: Customers) -> _Array:
        """The median of the days until the next purchase, float64 [n], at most :data:`LONGEST_DAYS`.

        Whoever is as likely as not to have stopped has no median: he gets the most.
        """
        shape, scale = self.r + known.repeats, self.alpha + known.age
        rest = 1.0 - 0.5 / np.maximum(self.active(known), 1e-12)
        weeks = np.full(len(rest), np.inf)
        finite = rest > 0
        exponent = np.minimum(-np.log(rest[finite]) / shape[finite], 700.0)
        weeks[finite] = scale[finite] * np.expm1(exponent)
        return np.minimum(weeks * _DAYS_PER_WEEK, LONGEST_DAYS)

    def expected_purchases(self, known: Customers, weeks: float) -> _Array:
        """Purchase days expected in the ``weeks`` after the moment, float64 [n]: equation 10 of the paper."""
        x, shape, scale = known.repeats, self.r + known.repeats, self.alpha + known.age
        ratio = np.exp(shape * np.log(scale / (scale + weeks)))
        grown = hyp2f1(shape, self.b + x, self.a + self.b + x - 1.0, weeks / (scale + weeks))
        return np.asarray((self.a + self.b + x - 1.0) / (self.a - 1.0) * (1.0 - ratio * grown) * self.active(known))


def fit_bg_nbd(known: Customers, start: BgNbd | None = None) -> BgNbd:
    """The parameters of greatest likelihood (equation 6 of the paper); those of an earlier moment are a quick start.

    Without any user they are the start, or 1 each.
    """
    first = np.zeros(_PARAMETERS) if start is None else np.log([start.r, start.alpha, start.a, start.b])
    if not len(known.age):
        return BgNbd(*np.exp(first))
    x, repeated = known.repeats, known.repeats > 0

    def loss(parameters: _Array) -> float:
        r, alpha, a, b = np.exp(parameters)
        common = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        common = common + gammaln(a + b) + gammaln(b + x) - gammaln(b) - gammaln(a + b + x)
        going_on = -(r + x) * np.log(alpha + known.age)
        stopped = np.log(a) - np.log(b + np.maximum(x, 1.0) - 1.0) - (r + x) * np.log(alpha + known.last)
        each = common + np.logaddexp(going_on, np.where(repeated, stopped, -np.inf))
        return float(-np.mean(each) + _PENALTY * np.sum(parameters**2))

    # At most e to the 6th: beyond that the distributions are points, and the likelihood is flat.
    found = minimize(loss, first, method="L-BFGS-B", bounds=[(-6.0, 6.0)] * _PARAMETERS)
    return BgNbd(*(float(value) for value in np.exp(found.x)))


@dataclass(frozen=True, slots=True)
class Pace:
    """How the shop's present pace changes a chance: its log odds times ``scale`` plus ``offset``."""

    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def fit(cls, chances: _Array, came: _Array) -> Pace:
        """Platt scaling (Platt 1999) of chances float64 [n] by what came of each, bool [n]; none if all came alike."""
        if not came.any() or came.all():
            return cls()
        odds, told = _log_odds(chances), came.astype(np.float64)

        def loss(parameters: _Array) -> tuple[float, _Array]:
            logits = parameters[0] * odds + parameters[1]
            value = np.mean(np.logaddexp(0.0, logits) - told * logits)
            wrong = 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500))) - told
            return float(value), np.array([np.mean(wrong * odds), np.mean(wrong)])

        # The bounds keep the order of users, and few outcomes from turning a chance into a certainty.
        found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.25, 2.0), (-2.0, 2.0)])
        return cls(float(found.x[0]), float(found.x[1]))

    def apply(self, chances: _Array) -> _Array:
        """The corrected chances, float64 [n]."""
        logits = self.scale * _log_odds(chances) + self.offset
        return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def _log_odds(chances: _Array) -> _Array:
    inside = np.clip(chances, 1e-6, 1.0 - 1e-6)
    return np.asarray(np.log(inside) - np.log1p(-inside))
