"""Pages made without a server: of what was found before, of what is popular, of what has the words of a query.

All of it is a look-up in columns that the client holds: a page takes well below 2 ms with 50,000 items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.cached_features import recall
from recsys_plugin.client.categories import own_rows
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.fallback import Fallback, Level
from recsys_plugin.client.pages import page, page_items
from recsys_plugin.client.results import Page, RankedItems
from recsys_plugin.client.searching import plan_of, told
from recsys_plugin.client.segments import segments_of
from recsys_plugin.client.shelf_rules import ShelfPolicy, shelf_policy
from recsys_plugin.features.plan import FeatureReport
from recsys_plugin.policy.page import SearchBlend

__all__ = ["InProcess"]

#: Of popularity beside the words of a query: it decides among what has them equally.
_POPULARITY_WEIGHT = 0.01
_NO_VECTORS = "diversity: the vectors of items cannot be asked for"
_Rows = NDArray[np.int64]
_Scores = NDArray[np.float32]


@dataclass(slots=True)
class InProcess:
    """One request that is answered in process.

    Args:
        model: what the page says that it was served by.
        shelf: whose rules hold, and under whose name pages are kept.
        wanted: how many items. excluded: rows that must not be on the page. candidates: how many to consider.
    """

    context: RequestContext
    model: str
    shelf: str
    wanted: int
    excluded: Collection[int]
    candidates: int
    policy: ShelfPolicy | None = field(init=False)
    _without_vectors: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.candidates = max(self.wanted, self.candidates)
        self.policy = shelf_policy(self.context, self.shelf) if self.shelf != "ads" else None
        if self.policy is not None and self.policy.rules.diversity is not None:
            self.policy = self.policy.without_diversity()
            self.context.policies[self.shelf] = self.policy
            self._without_vectors = True

    def of_user(self, user: str) -> Page:
        """What was found for a user before, filled up with what is popular; else that alone."""
        report = self._recalled(user)
        kept = self._kept(user)
        rows, scores = self._popular(user)
        if kept is None:
            return self._page(user, rows, scores, "popularity", "what is popular", report=report)
        (rows, scores), age = _followed(kept[0], (rows, scores)), kept[1]
        return self._page(user, rows, scores, "retrieval", f"what was found {age:.1f} s before", age, report)

    def popular(self, category: str | None) -> Page:
        """What is popular with the request's segment, in a category or in all."""
        allowed = None
        if category is not None:
            categories = self.context.release.catalogue.categories
            code = categories.known(category)
            allowed = categories.codes == (-1 if code is None else code)
        rows, scores = self._popular(None, allowed)
        return self._page(None, rows, scores, "popularity", "as of the snapshot")

    def of_items(
        self,
        subject: Hashable,
        rows: Sequence[int],
        *,
        user: str | None = None,
        unknown: tuple[str, ...] = (),
        same_category: bool = False,
        others_after: bool = False,
    ) -> Page:
        """What was found for some items before; else what is popular.

        Args:
            subject: under which a page may have been kept; ``None`` for none.
            rows: of the items. unknown: ids of further ones.
            same_category: of the items' categories only, if they have any; with ``others_after`` of these first.
        """
        report = None if user is None else self._recalled(user)
        kept = None if subject is None else self._kept(subject)
        if kept is not None:
            (found, scores), age = kept
            what = f"what was found {age:.1f} s before"
            return self._page(user, found, scores, "retrieval", what, age, report, unknown)
        release, what = self.context.release, "what is popular"
        names = {release.shown(row)[1] for row in rows} - {""} if same_category else set()
        allowed = None
        if names:
            categories = release.catalogue.categories
            codes = [code for name in sorted(names) if (code := categories.known(name)) is not None]
            allowed, what = np.isin(categories.codes, codes), f"what is popular in {', '.join(sorted(names)[:3])}"
        found, scores = self._popular(user, allowed)
        if names and others_after and len(found) < self.wanted:
            found, scores = _followed((found, scores), self._popular(user))
        return self._page(user, found, scores, "popularity", what, None, report, unknown)

    def of_new_categories(self, user: str, most: int) -> Page:
        """What was found for a user before; else what is popular in categories of which the features kept of him hold
        no item, at most so many of each."""
        report, release = self._recalled(user), self.context.release
        kept = self._kept(user)
        if kept is not None:
            (rows, scores), age = kept
            return self._page(user, rows, scores, "retrieval", f"what was found {age:.1f} s before", age, report)
        known: set[str] = set()
        read = self.context.features.get(user)
        if read is not None:
            contract = release.models["recommend"].plan.contract
            known = {release.shown(row)[1] for row in own_rows(contract, read[0])}
        categories = release.catalogue.categories
        familiar = [code for name in ("", *known) if (code := categories.known(name)) is not None]
        rows, scores = self._popular(user, ~np.isin(categories.codes, familiar))
        seen: Counter[int] = Counter()
        places: list[int] = []
        for place, code in enumerate(categories.codes[rows].tolist()):
            if seen[code] < most:
                seen[code] += 1
                places.append(place)
        what = "what is popular in categories that the user is not known to know"
        return self._page(user, rows[places], scores[places], "popularity", what, None, report)

    def ranked(self, user: str, rows: _Rows, unknown: tuple[str, ...]) -> Page:
        """Given items, distinct, the more popular first, and what is equally popular in the order given."""
        report, release = self._recalled(user), self.context.release
        shares = np.zeros(len(rows), np.float32)
        old = rows < len(release.popularity.shares)
        shares[old] = release.popularity.shares_of(segments_of(self.context, user))[rows[old]]
        # Not the shares themselves, since of equal scores the lower row comes first.
        scores = np.empty(len(rows), np.float32)
        scores[np.argsort(-shares, kind="stable")] = np.arange(len(rows), 0, -1, dtype=np.float32)
        scores /= np.float32(max(1, len(rows)))
        return self._page(user, rows, scores, "popularity", "the more popular first", None, report, unknown)

    def searched(self, user: str | None, query: str, blend: SearchBlend, *, understand: bool) -> Page:
        """What has the words of a query, within its filters; of what a filter alone lets through, the popular."""
        report = None if user is None else self._recalled(user)
        plan = plan_of(self.context, query, self.excluded, user)
        rows, allowed = plan.lexical_rows, plan.allowed if understand else None
        size = len(self.context.release.catalogue)
        if allowed is not None:
            rows = rows[allowed[rows]]
            popular, _ = self._popular(user, allowed[:size])
            rows = np.union1d(rows, popular)
        newer = size + np.flatnonzero(plan.matches[size:] > 0)
        rows = np.concatenate([rows, newer if allowed is None else newer[allowed[newer]]])
        shares = np.zeros(len(rows), np.float32)
        old = rows < len(self.context.release.popularity.shares)
        shares[old] = self.context.release.popularity.shares[rows[old]]
        boosts = plan.boosts(rows) if understand else None
        blend = replace(blend, personal_weight=min(blend.personal_weight, _POPULARITY_WEIGHT))
        scores = blend.scores(rows, np.zeros(len(rows), np.float32), shares, matches=plan.matches[rows], boosts=boosts)
        found = self._page(user, rows, scores, "lexical", "what has its words", None, report)
        return told(found, plan if understand else None)

    def empty(self, user: str | None) -> Page:
        """A page without items."""
        return self._page(user, np.empty(0, np.int64), np.empty(0, np.float32), "empty", "nothing can be shown")

    def _recalled(self, user: str) -> FeatureReport | None:
        """What is known of a user without asking: the features that this request read, or those kept."""
        context = self.context
        model = context.release.models.get("recommend")
        if user in context.features or model is None or context.failure is None:
            return None
        tensors, (report,) = recall(context, model.plan, [user], context.failure)
        if not report.known:
            return None
        context.features = {**context.features, user: (tensors, 0)}
        return report

    def _kept(self, subject: Hashable) -> tuple[tuple[_Rows, _Scores], float] | None:
        """Rows and scores of a page of this version that was kept, and its age in seconds."""
        found = self.context.memory.get((self.shelf, subject), self.context.started)
        if found is None or found[0][0] != self.context.release.version:
            return None
        (_, rows, scores), age = found
        return (rows, scores), age

    def _popular(self, user: str | None, allowed: NDArray[np.bool_] | None = None) -> tuple[_Rows, _Scores]:
        """The most popular rows that may be shown, and their shares, best first.

        Args:
            allowed: ``[N]``; ``None`` for all.
        """
        release, policy = self.context.release, self.policy
        barred = [np.fromiter(self.excluded, np.int64, len(self.excluded))]
        if policy is None or policy.rules.least_stock > 0:
            barred.append(release.sold_out)
        if policy is not None:
            barred.append(policy.excluded_rows(user))
        gone, size = np.concatenate(barred), len(release.catalogue)
        mask = allowed
        if gone.size:
            mask = np.ones(size, np.bool_) if allowed is None else allowed[:size].copy()
            mask[gone[gone < size]] = False
        return release.popularity.best(segments_of(self.context, user), self.candidates, mask)

    def _page(
        self,
        user: str | None,
        rows: _Rows,
        scores: _Scores,
        level: Level,
        what: str,
        age: float | None = None,
        report: FeatureReport | None = None,
        unknown: tuple[str, ...] = (),
    ) -> Page:
        """The page of some candidates."""
        context = self.context
        if context.failure is not None:
            context.fallbacks[user] = Fallback(level, f"{context.failure}; {what}", age)
        items = RankedItems()
        if self.wanted and len(rows):
            # Under another name than the click model's scores, since these are no rates.
            outputs: dict[str, Any] = {"rows": rows, "in_process": scores}
            items = page_items(
                context, self.model, outputs, scores, None, self.excluded, self.wanted, user_id=user, shelf=self.shelf
            )
        made = page(context, self.model, user, items, report, unknown)
        if level == "popularity" and (segments := segments_of(context, user)):
            made = replace(made, segments=segments)
        if made.rules is not None and self._without_vectors:
            made = replace(made, rules=replace(made.rules, unmet=(*made.rules.unmet, _NO_VECTORS)))
        return made


def _followed(first: tuple[_Rows, _Scores], then: tuple[_Rows, _Scores]) -> tuple[_Rows, _Scores]:
    """Candidates with others after them, whose scores are scaled to lie below theirs."""
    (rows, scores), (others, shares) = first, then
    new = ~np.isin(others, rows)
    others, shares = others[new], shares[new]
    if not len(others) or not len(rows):
        return (rows, scores) if len(rows) else (others, shares)
    lowest, most = scores.min(), shares.max()
    below = 1.0 - (shares / most if most > 0 else shares)
    scaled = lowest - np.maximum(np.abs(lowest), np.float32(1e-3)) * (np.float32(0.01) + below)
    return np.concatenate([rows, others]), np.concatenate([scores, scaled.astype(np.float32)])
