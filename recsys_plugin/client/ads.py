"""Ads for a user, from arguments to page: the auction of :mod:`recsys_plugin.ads` over what the model ``rank`` says.

The user's features come in one round trip with the counters of all campaigns, and their items are ranked in one call
to Triton; what won is noted in a second round trip, before it is shown.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.ads.campaign import UserCondition
from recsys_plugin.ads.serving import AdRequest, Creatives, KnownCampaigns, ShownAd, serve_ads
from recsys_plugin.client.ad_pages import AdItem, AdsPage
from recsys_plugin.client.arguments import checked_call_context, checked_slots
from recsys_plugin.client.consents import honoured
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.flows import Flow, score_rows
from recsys_plugin.client.pages import SCORES, known_values, page, shown_facts
from recsys_plugin.client.results import RankedItems
from recsys_plugin.consent.consent import CONSENT_FIELD
from recsys_plugin.errors import InferenceUnavailable
from recsys_plugin.features.contract import Encoding
from recsys_plugin.features.plan import FeatureReport, FeatureTensors
from recsys_plugin.identifiers import checked_id, checked_ids
from recsys_plugin.inference.tensors import Array
from recsys_plugin.limits import MOST_CANDIDATES

__all__ = ["ads"]

_log = logging.getLogger("recsys_plugin")


def ads(
    context: RequestContext,
    known: KnownCampaigns,
    user_id: object,
    slots: object,
    *,
    about: object,
    exclude: Iterable[object],
) -> Flow:
    """Up to so many ads for a user, which are noted as shown.

    Args:
        known: the campaigns, as this client knows them.
        about: what the call says about itself, for targeting.
    """
    user, wanted, said = checked_id(user_id, "user_id"), checked_slots(slots), checked_call_context(about)
    excluded = frozenset(checked_ids(exclude, "exclude", most=MOST_CANDIDATES))
    seen = _Ranking(context, known, user)
    shown: list[ShownAd] = []
    if wanted:
        plan = context.release.models["rank"].plan
        request = AdRequest(
            request_id=context.request_id,
            user_id=user,
            slots=wanted,
            now=context.now,
            generator=context.exploration.generator(context.request_id, user),
            context=said,
            excluded=excluded,
        )
        reads = (("HMGET", plan.key(user), *plan.fields, CONSENT_FIELD),)
        shown = yield from serve_ads(known, request, reads=reads, admit=seen.admit, score=seen.score)
    placed = [seen.item(ad, place) for place, ad in enumerate(shown, 1)]
    items = RankedItems(len(placed), lambda: (item.item_id for item in placed), placed.__getitem__)
    made = page(context, "rank", user, items, seen.report, tuple(seen.unknown))
    served_by = replace(made.served_by, model="ads")
    return [AdsPage(made.request_id, user, items, served_by, made.features, made.timings, made.unknown_items)]


@dataclass(slots=True)
class _Ranking:
    """What is known of a user and of advertised items, as far as the request has come."""

    context: RequestContext
    known: KnownCampaigns
    user_id: str
    tensors: FeatureTensors | None = None
    report: FeatureReport | None = None
    unknown: dict[str, None] = field(default_factory=dict)
    """Advertised items that the catalogue lacks."""
    outputs: Mapping[str, Array] = field(default_factory=dict)

    def admit(self, book: CampaignBook, replies: Sequence[Any], campaigns: Creatives) -> Creatives:
        """Campaigns whose conditions on the user hold, and which of their items there are."""
        release = self.context.release
        plan = release.models["rank"].plan
        told = honoured(self.context, [self.user_id], replies, len(plan.fields))
        decoded = plan.decode([self.user_id], told, now=self.context.now, rows=release.catalogue.rows)
        self.tensors, (self.report,) = decoded
        self.context.end_of("features")
        admitted: dict[str, list[str]] = {}
        for campaign_id, items in campaigns.items():
            if all(condition.admits(self._values(condition)) for condition in book.by_id[campaign_id].targeting.user):
                found = dict(zip(items, release.rows(items), strict=True))
                admitted[campaign_id] = [item for item, row in found.items() if row is not None]
                self.unknown.update(dict.fromkeys(item for item, row in found.items() if row is None))
        return admitted

    def score(self, items: Sequence[str]) -> Generator[Any, Any, Mapping[str, float]]:
        """The probability that the user clicks each item: the model's for clicks, else its for purchases."""
        rows = np.array(sorted(row for row in self.context.release.rows(items) if row is not None), dtype=np.int64)
        assert self.tensors is not None
        self.outputs = yield from score_rows(self.context, self.tensors, rows)
        clicks, purchases = (
            self.outputs.get(name, np.full(len(rows), np.nan)) for name in ("click_probability", "purchase_probability")
        )
        chances = np.where(np.isnan(clicks), purchases, clicks).astype(np.float64)
        if not ((chances >= 0.0) & (chances <= 1.0)).all():
            raise InferenceUnavailable(
                "model rank answered neither click_probability nor purchase_probability from 0 to 1 for an advertised "
                "item, so no ad can be priced"
            )
        items_of_rows = map(self.context.release.item_id, rows.tolist())
        return dict(zip(items_of_rows, chances.tolist(), strict=True))

    def item(self, ad: ShownAd, place: int) -> AdItem:
        """An ad as it stands on the page."""
        release, bid = self.context.release, ad.placement.bid
        row = release.row(bid.item_id)
        assert row is not None
        estimates = {name: self.outputs[name] for name in SCORES[1:] if name in self.outputs}
        return AdItem(
            **shown_facts(release, row),
            **known_values(estimates, int(np.searchsorted(self.outputs["rows"], row))),
            score=ad.placement.score,
            position=place,
            propensity=ad.placement.propensity,
            sponsored=True,
            campaign_id=bid.campaign_id,
            impression_id=ad.impression_id,
            price_per_click_micros=ad.placement.price_micros,
            ecpm_micros=round(1000 * bid.probability * ad.placement.price_micros),
            calibrated_probability=bid.probability,
        )

    def _values(self, condition: UserCondition) -> list[Any] | None:
        """The user's values of a feature; ``None`` if he has none, or the model does not read it."""
        contract = self.context.release.models["rank"].plan.contract
        assert self.tensors is not None
        assert self.report is not None
        slot = contract.slots.get(condition.feature)
        spec = next((each for each in contract.stored_features if each.reference == condition.feature), None)
        if slot is None or spec is None or spec.encoding is Encoding.ROW:
            if condition.feature not in self.known.unreadable:
                self.known.unreadable.add(condition.feature)
                _log.warning(
                    "campaigns that target by %s are shown to nobody: the model rank of version %d does not read it",
                    condition.feature,
                    self.context.release.version,
                )
            return None
        if condition.feature in self.report.missing or condition.feature in self.report.expired:
            return None
        tensor = getattr(self.tensors, str(slot.tensor))
        values = tensor[0, slot.offset : slot.offset + slot.width].tolist()
        if spec.element == "BOOL":
            return [bool(value) for value in values]
        return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
