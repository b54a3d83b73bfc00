"""The rules that hold for one shelf in one request: what the models are asked for, and what a page is made of."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.item_columns import barred_names, every_item
from recsys_plugin.client.own_acts import RECENT_MOMENTS, RECENT_ROWS, RECENT_TYPES
from recsys_plugin.errors import ServiceUnavailable
from recsys_plugin.events.event import EVENT_TYPE_CODES
from recsys_plugin.inference.calls import Infer
from recsys_plugin.inference.tensors import Array
from recsys_plugin.policy.rules import NO_RULES, Barred, ShelfRules, filtered

__all__ = ["ShelfPolicy", "fetch_vectors", "shelf_policy"]

_RECENT = (RECENT_ROWS, RECENT_TYPES, RECENT_MOMENTS)
_SEEN_CODES = [EVENT_TYPE_CODES[name] for name in ("impression", "click", "cart")]
_BOUGHT_CODE = EVENT_TYPE_CODES["purchase"]
_DAY = 86_400
#: Rules' ages count in whole minutes, so that what is excluded of a catalogue need not be found anew for each request.
_MINUTE = 60
#: Of so many times the pool of the diversity rule vectors are fetched: some of it may be filtered out.
_SLACK = 2
_NO_ROWS = np.empty(0, np.int64)
#: Sets of rules whose exclusions a release remembers.
_MOST_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class ShelfPolicy:
    """The rules of a shelf, bound to a request."""

    context: RequestContext
    shelf: str
    rules: ShelfRules
    sponsored: tuple[str, ...]
    """Item ids for the reserved positions, best first."""

    def without_diversity(self) -> ShelfPolicy:
        """The other rules: without the vectors of items nobody can tell which are alike."""
        return replace(self, rules=replace(self.rules, diversity=None))

    @property
    def moment(self) -> float:
        """The time that ages count from: the request's, at the beginning of its minute."""
        return self.context.now - self.context.now % _MINUTE

    @property
    def rearranges(self) -> bool:
        """Whether a page may be another than its best items, once these are chosen."""
        rules = self.rules
        unlike = rules.diversity is not None and rules.diversity.strength > 0
        return bool(unlike or rules.caps or rules.pins or (rules.sponsored and self.sponsored))

    def results(self, wanted: int, candidates: int) -> int:
        """How many of the best candidates the model is to return, of so many that it looks at."""
        rules = self.rules
        reorders = self.rearranges or rules.objectives is not None or rules.freshness is not None
        return max(wanted, candidates) if reorders else wanted

    def barred(self, user_id: str | None) -> Barred:
        """What filters need to know."""
        return barred_names(self.context.release, self.rules.exclude, self.already(user_id))

    def already(self, user_id: str | None) -> NDArray[np.int64]:
        """Rows of what the user bought or saw in the days that the rule says, by the features that were read."""
        rule = self.rules.already
        read = self.context.features.get(user_id) if user_id is not None else None
        if rule is None or read is None:
            return _NO_ROWS
        columns = self._recent()
        if columns is None:
            return _NO_ROWS
        tensors, line = read
        rows, codes, times = (tensors.user_int[line, column] for column in columns)
        gone = np.zeros(len(rows), np.bool_)
        if rule.bought_days is not None:
            gone |= (codes == _BOUGHT_CODE) & (times >= self.context.now - rule.bought_days * _DAY)
        if rule.seen_days is not None:
            gone |= np.isin(codes, _SEEN_CODES) & (times >= self.context.now - rule.seen_days * _DAY)
        return rows[gone & (rows >= 0)]

    def unmet(self, user_id: str | None) -> list[str]:
        """Why rules cannot be kept whatever the candidates are."""
        if self.rules.already is None:
            return []
        if user_id is None or user_id not in self.context.features:
            return ["already: it is not known whose page this is"]
        return [] if self._recent() else [f"already: the model does not read {', '.join(_RECENT)}"]

    def _recent(self) -> tuple[slice, ...] | None:
        """Where the user's latest events lie in the integers that were read; ``None`` if the model reads none."""
        models = self.context.release.models
        slots = models.get(self.shelf, models["recommend"]).plan.contract.slots
        if not all(name in slots for name in _RECENT):
            return None
        return tuple(slice(slots[name].offset, slots[name].offset + slots[name].width) for name in _RECENT)

    def excluded_rows(self, user_id: str | None) -> NDArray[np.int64]:
        """Rows of the catalogue that the model need not look at; what newer items there are is filtered later."""
        already = self.already(user_id)
        general = self._excluded_for_all()
        return np.concatenate([general, already]) if already.size else general

    def _excluded_for_all(self) -> NDArray[np.int64]:
        rules, release = self.rules, self.context.release
        ages = rules.freshness is not None and rules.freshness.oldest_days is not None
        if rules.price is None and rules.exclude is None and not ages and rules.least_stock == 1:
            return _NO_ROWS  # what is sold out is excluded anyway
        key = ("excluded", rules, self.moment if ages else None)
        found: NDArray[np.int64] | None = release.memory.get(key)
        if found is None:
            barred = barred_names(release, rules.exclude, _NO_ROWS)
            allowed, _ = filtered(rules, every_item(release), barred, now=self.moment)
            found = np.flatnonzero(~allowed)
            if len(release.memory) >= _MOST_REMEMBERED:
                release.memory.clear()
            release.memory[key] = found
        return found


def shelf_policy(context: RequestContext, shelf: str) -> ShelfPolicy | None:
    """The rules of a shelf in this request; ``None`` if there are none but that nothing sold out is shown.

    Raises:
        InvalidInput: if the request's own rules make no sense; the message names rule and field.
    """
    if context.asked is None and context.rules is NO_RULES:
        return None
    if shelf not in context.policies:
        context.policies[shelf] = _policy(context, shelf)
    policy: ShelfPolicy | None = context.policies[shelf]
    return policy


def _policy(context: RequestContext, shelf: str) -> ShelfPolicy | None:
    asked, rules = context.asked, context.rules.of(shelf)
    sponsored: tuple[str, ...] = ()
    if asked is not None:
        sponsored = asked.sponsored
        if isinstance(asked.rules, ShelfRules):
            rules = asked.rules
        elif asked.rules is not None:
            rules = rules.overridden(asked.rules, "rules")
    if rules == NO_RULES.of(shelf) and not sponsored:
        return None
    return ShelfPolicy(context, shelf, rules, sponsored)


def fetch_vectors(
    context: RequestContext, shelf: str, rows: Array, scores: Array
) -> Generator[Infer, dict[str, Array], None]:
    """Make sure that the vectors of the best candidates are there, if a rule of the shelf wants them.

    Args:
        rows: ``[B, n]``, below 0 where there are fewer. scores: ``[B, n]``, by which they are good.

    Raises:
        InferenceUnavailable: strict, if Triton fails; otherwise the page says that the rule does not hold.
    """
    policy = shelf_policy(context, shelf)
    if policy is None or policy.rules.diversity is None or policy.rules.diversity.strength == 0:
        return
    wanted = _SLACK * policy.rules.diversity.pool
    if rows.shape[1] > wanted:
        best = np.argpartition(np.where(rows >= 0, -scores, np.inf), wanted - 1, axis=1)[:, :wanted]
        rows = np.take_along_axis(rows, best, axis=1)
    try:
        yield from context.release.catalogue.vectors.fetch(context.release.version, rows.reshape(-1))
    except ServiceUnavailable as error:
        context.miss("diversity", error)
        context.policies[shelf] = policy.without_diversity()
    context.end_of("inference")
