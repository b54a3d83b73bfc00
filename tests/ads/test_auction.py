"""The auction, whatever the bids: who stands where, for how much, and with what odds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.ads.auction import Bid, hold_auction

#: The machine may be busy.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
bids = st.lists(
    st.builds(
        Bid,
        campaign_id=st.sampled_from("abcdef"),
        item_id=st.sampled_from("uvwxyz"),
        bid_micros=st.integers(1, 10**6),
        probability=st.one_of(st.just(0.0), st.floats(1e-6, 1.0), st.sampled_from([0.1, 0.2])),
        spread=st.sampled_from([0.0, 0.4]),
        draw=st.floats(-3, 3),
    ),
    max_size=20,
    unique_by=lambda bid: (bid.campaign_id, bid.item_id),
)


@patient
@given(bids, st.integers(0, 8), st.integers(1, 1000), st.sampled_from([0.0, 0.05]))
def test_what_every_auction_promises(bids: list[Bid], slots: int, reserve: int, floor: float) -> None:
    placed = hold_auction(bids, slots, reserve_micros=reserve, quality_floor=floor)
    assert len(placed) <= slots
    assert len({each.bid.campaign_id for each in placed}) == len(placed)
    assert len({each.bid.item_id for each in placed}) == len(placed)
    scores = [each.score for each in placed]
    assert scores == sorted(scores, reverse=True)
    for each in placed:
        assert reserve <= each.price_micros <= each.bid.bid_micros
        assert each.bid.probability >= max(floor, 1e-9)
        assert each.score == each.bid.drawn * each.bid.bid_micros
        assert 0.0 <= each.propensity <= each.bid.pass_rate
    assert hold_auction(bids[::-1], slots, reserve_micros=reserve, quality_floor=floor) == placed
    if slots:
        running = [bid for bid in bids if bid.bid_micros >= reserve and bid.probability >= max(floor, 1e-9)]
        assert bool(placed) == bool(running)


@patient
@given(bids, st.integers(1, 8))
def test_the_price_is_the_least_bid_that_keeps_the_slot(bids: list[Bid], slots: int) -> None:
    bids = [replace(bid, spread=0.0) for bid in bids]
    for number, each in enumerate(hold_auction(bids, slots)):
        others = [bid for bid in bids if bid.campaign_id != each.bid.campaign_id]
        # A unit more than the price is certainly enough, whoever wins ties.
        enough = hold_auction([*others, replace(each.bid, bid_micros=each.price_micros + 1)], number + 1)
        if each.price_micros < each.bid.bid_micros:
            assert enough[number].bid.item_id == each.bid.item_id
        if each.price_micros > 2:
            less = hold_auction([*others, replace(each.bid, bid_micros=each.price_micros - 1)], number + 1)
            assert all(stood.bid.campaign_id != each.bid.campaign_id for stood in less)


def test_second_prices_by_hand() -> None:
    placed = hold_auction([Bid("a", "x", 100, 0.2), Bid("b", "y", 300, 0.05), Bid("c", "z", 90, 0.1)], 2)
    assert [(each.bid.campaign_id, each.price_micros) for each in placed] == [("a", 75), ("b", 180)]
    alone = hold_auction([Bid("a", "x", 100, 0.2)], 2, reserve_micros=7)
    assert [each.price_micros for each in alone] == [7]
    # A campaign does not bid against itself.
    own = hold_auction([Bid("a", "x", 100, 0.2), Bid("a", "y", 100, 0.19), Bid("b", "z", 100, 0.1)], 3)
    assert [(each.bid.item_id, each.price_micros) for each in own] == [("x", 50), ("z", 1)]
    # Of an item of two campaigns, the one that stands below sets the price though it is not shown.
    same = hold_auction([Bid("a", "x", 100, 0.2), Bid("b", "x", 80, 0.2)], 3)
    assert [(each.bid.campaign_id, each.price_micros) for each in same] == [("a", 80)]


def test_ties_are_ordered_by_id() -> None:
    tied = [Bid(name, f"item-{name}", 100, 0.1) for name in "cab"]
    assert [each.bid.campaign_id for each in hold_auction(tied, 3)] == ["a", "b", "c"]
    assert [each.price_micros for each in hold_auction(tied, 3)] == [100, 100, 1]


def test_what_cannot_be_shown_is_left_out() -> None:
    assert hold_auction([], 3) == []
    assert hold_auction([Bid("a", "x", 100, 0.0)], 3) == []
    assert hold_auction([Bid("a", "x", 100, 0.01)], 3, quality_floor=0.02) == []
    assert hold_auction([Bid("a", "x", 100, 0.5)], 3, reserve_micros=101) == []
    assert hold_auction([Bid("a", "x", 100, 0.5)], 0) == []


def test_propensities_are_frequencies() -> None:
    """Draw one creative anew and leave the others as they were: it stands in its slot as often as was said."""
    generator = np.random.default_rng(3)
    bids = [
        Bid("a", "x", 100, 0.10, 0.5, 0.3),
        Bid("a", "y", 100, 0.09, 0.5, -0.4, 1.0),
        Bid("b", "x", 120, 0.10, 0.3, 0.1),
        Bid("c", "z", 90, 0.11, 0.6, 0.2),
        Bid("d", "u", 200, 0.60, 0.9, 0.5),
    ]
    for slot, each in enumerate(hold_auction(bids, 3)):
        others = [bid for bid in bids if bid != each.bid]
        draws = generator.standard_normal(20_000)
        hits = 0
        for draw in draws.tolist():
            placed = hold_auction([*others, replace(each.bid, draw=draw)], slot + 1)
            hits += len(placed) > slot and (placed[slot].bid.item_id, placed[slot].bid.campaign_id) == (
                each.bid.item_id,
                each.bid.campaign_id,
            )
        assert hits / len(draws) == pytest.approx(each.propensity, abs=0.015)


def test_propensity_counts_pacing() -> None:
    (placed,) = hold_auction([Bid("a", "x", 100, 0.1, pass_rate=0.25)], 1)
    assert placed.propensity == 0.25


@patient
@given(st.floats(0.001, 1.0), st.floats(0.1, 1.0))
def test_draws_have_the_calibrated_mean(probability: float, spread: float) -> None:
    z = np.linspace(-6, 6, 2001)
    weight = np.exp(-(z**2) / 2)
    drawn = np.array([Bid("a", "x", 1, probability / 1000, spread, draw).drawn for draw in z.tolist()])
    assert (drawn * weight).sum() / weight.sum() == pytest.approx(probability / 1000, rel=1e-3)
    assert math.isclose(Bid("a", "x", 1, probability).drawn, probability)
