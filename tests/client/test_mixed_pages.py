"""Ads among organic items, whatever the pages: the rule as properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.client.ad_pages import AdItem, AdsPage, mix_ads
from recsys_plugin.client.results import Page, RankedItems, ScoredItem, ServedBy, Timings
from recsys_plugin.errors import InvalidInput

#: The machine may be busy.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_SERVED, _TIMINGS = ServedBy("recommend", 1, None, 1, 9), Timings(0, 0, 0, 0)


def organic(item_ids: list[str]) -> Page:
    items = [ScoredItem(item_id, 1.0, place, item_id, "", None) for place, item_id in enumerate(item_ids, 1)]
    return Page("r", "u", RankedItems(len(items), lambda: item_ids, items.__getitem__), _SERVED, None, _TIMINGS)


def advertised(item_ids: list[str]) -> AdsPage:
    items = [
        AdItem(
            item_id=item_id, score=1.0, position=place, title=item_id, category="", price=None, sponsored=True,
            campaign_id="c", impression_id=f"r:{place}", price_per_click_micros=1, ecpm_micros=1,
            calibrated_probability=0.1,
        )
        for place, item_id in enumerate(item_ids, 1)
    ]  # fmt: skip
    ranked = RankedItems(len(items), lambda: item_ids, items.__getitem__)
    return AdsPage("a", "u", ranked, replace(_SERVED, model="ads"), None, _TIMINGS)


ids = st.lists(st.sampled_from("abcdefghij"), unique=True)


@patient
@given(ids, ids, st.lists(st.integers(1, 30), unique=True).map(sorted))
def test_the_rule(items: list[str], ads: list[str], positions: list[int]) -> None:
    ads = ads[: len(positions)]
    page = mix_ads(organic(items), advertised(ads), positions)
    assert len(set(page.item_ids)) == len(page)
    assert [item.item_id for item in page if item.sponsored] == ads
    kept = [item.item_id for item in page if not item.sponsored]
    assert kept == [item for item in items if item not in ads][: len(kept)]
    assert [item.position for item in page] == list(range(1, len(page) + 1))
    assert len(page) == max(len(ads), min(len(items), len(set(items) | set(ads))))
    for ad, position in zip(ads, positions, strict=False):
        place = page.item_ids.index(ad) + 1
        assert place == position or (place < position and set(page.item_ids[place:]) <= set(ads))


@pytest.mark.parametrize("positions", [[0], [2, 1], [1, 1], [1.0], [True], ["1"], [-3]])
def test_wrong_positions(positions: list[int]) -> None:
    with pytest.raises(InvalidInput, match=r"^positions"):
        mix_ads(organic(["a"]), advertised([]), positions)


def test_more_ads_than_positions() -> None:
    with pytest.raises(InvalidInput, match=r"^ads: 2 for 1 positions"):
        mix_ads(organic(["a"]), advertised(["b", "c"]), [1])
