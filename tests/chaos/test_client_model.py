"""A client against a reference that knows the tiny shop by heart, while faults come and go at random."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from tiny_shop import BASE, ITEM_IDS, NOW, TASTE, TinyShop
from waiting import holds_within

from recsys_plugin import Page, Recommender
from recsys_plugin.chaos.faults import Fault, HalfOpen, Latency, Reset, Truncate
from recsys_plugin.chaos.target import REDIS, SERVERS, TRITON, Target

TIMEOUT = 0.25
#: By how much a call may outstay its deadline on a machine that is busy with other tests, of all but a few calls; and
#: by how much those may that the machine holds up for longer.
BUSY, MOST, HELD_UP = 0.25, 95, 5.0
USERS = ("mug-lover", "anna", "berta")
#: None of these makes two items equal.
PURCHASES = (0.0, 0.25, 1.5, 2.25)
FAULTS: dict[str, Callable[[tuple[str, ...]], Fault]] = {
    "late": lambda on: Latency(on, 1.0),
    "half open": HalfOpen,
    "reset": Reset,
    "cut": lambda on: Truncate(on, 10),
}
ITEMS = st.lists(st.sampled_from(ITEM_IDS), unique=True, max_size=6)


def best(purchases: float, among: Iterable[str] = ITEM_IDS) -> list[str]:
    """All items of a few, best first, as the tiny shop's models have it."""
    scores = dict(zip(ITEM_IDS, BASE + np.float32(purchases) * TASTE, strict=True))
    return sorted(among, key=lambda item_id: -scores[item_id])


class ClientUnderFaults(RuleBasedStateMachine):
    """What is asked and broken; the reference is what was written, and what the client may have read of it."""

    shop: TinyShop
    target: Target
    client: Recommender
    took: list[float]

    def __init__(self) -> None:
        super().__init__()
        self.broken: dict[str, Fault] = {}
        self.written: dict[str, float] = {}
        #: What the client can have kept of a user: whatever it read while all was well.
        self.read: dict[str, set[float]] = {}
        for user in USERS:
            self.write(user, 0.0)

    @rule(user=st.sampled_from(USERS), purchases=st.sampled_from(PURCHASES))
    def write(self, user: str, purchases: float) -> None:
        self.shop.write_user(user, purchases, [])
        self.written[user] = purchases

    @precondition(lambda self: len(self.broken) < len(SERVERS))
    @rule(server=st.sampled_from(SERVERS), kind=st.sampled_from(sorted(FAULTS)))
    def breaks(self, server: str, kind: str) -> None:
        if server not in self.broken:
            self.broken[server] = FAULTS[kind]((server,))
            self.broken[server].begin(self.target)

    @precondition(lambda self: bool(self.broken))
    @rule()
    def mended(self) -> None:
        for server in list(self.broken):
            self.broken.pop(server).end(self.target)
        assert holds_within(self.is_full, 5), "service was not full again within 5 s"

    @rule(user=st.sampled_from(USERS), k=st.integers(0, 7), exclude=ITEMS)
    def recommend(self, user: str, k: int, exclude: list[str]) -> None:
        page = self.ask(lambda: self.client.recommend(user, k, exclude=exclude), needs=SERVERS if k else ())
        allowed = [item_id for item_id in ITEM_IDS if item_id not in exclude]
        self.check(page, user, allowed, k)

    @rule(user=st.sampled_from(USERS), items=ITEMS)
    def rank(self, user: str, items: list[str]) -> None:
        page = self.ask(lambda: self.client.rank(user, items), needs=SERVERS if items else ())
        assert sorted(page.item_ids) == sorted(items)
        self.check(page, user, items, len(items))

    @rule(item=st.sampled_from(ITEM_IDS))
    def similar(self, item: str) -> None:
        page = self.ask(lambda: self.client.similar_items(item, 3), needs=(TRITON,))
        assert item not in page.item_ids
        assert len(set(page.item_ids)) == len(page) <= 3

    def ask(self, call: Callable[[], Page], *, needs: Iterable[str]) -> Page:
        """Whatever is broken, a page comes in time, and says truly whether it is all that it could be."""
        began = time.monotonic()
        page = call()
        self.took.append(time.monotonic() - began)
        assert self.took[-1] <= TIMEOUT + HELD_UP
        broken = set(needs) & set(self.broken)
        level, reason = page.fallback.level, page.fallback.reason
        assert bool(reason) == page.fallback.degraded
        if not broken:
            # The busy machine may have let a deadline pass; a server that is well answers the next time.
            assert level == "full" or holds_within(lambda: not call().fallback.degraded, 5), reason
            return page if level == "full" else call()
        assert page.fallback.degraded
        if broken == {REDIS} and level != "cached_features":
            # Likewise: Triton is well.
            assert holds_within(lambda: call().fallback.level == "cached_features", 5), reason
            return page
        assert broken == {REDIS} or level in ("retrieval", "popularity"), reason
        return page

    def check(self, page: Page, user: str, allowed: list[str], k: int) -> None:
        """The items are those that the reference has, for what was written or read before."""
        assert set(page.item_ids) <= set(allowed)
        assert len(set(page.item_ids)) == len(page) <= k
        match page.fallback.level:
            case "full":
                if k and allowed and not self.broken:
                    assert list(page.item_ids) == best(self.written[user], allowed)[:k]
                    self.read.setdefault(user, set()).add(self.written[user])
            case "cached_features":
                known = self.read.get(user, {0.0}) | {0.0}
                assert list(page.item_ids) in [best(purchases, allowed)[:k] for purchases in known]

    def is_full(self) -> bool:
        pages = [self.client.recommend(user, 3) for user in USERS] + [self.client.similar_items("mug", 3)]
        for user, page in zip(USERS, pages, strict=False):
            if not page.fallback.degraded:
                self.read.setdefault(user, set()).add(self.written[user])
        return not any(page.fallback.degraded for page in pages)

    def teardown(self) -> None:
        for server in list(self.broken):
            self.broken.pop(server).end(self.target)
        assert holds_within(self.is_full, 5)


def test_pages_are_right_or_say_what_they_are(fragile: TinyShop, target: Target) -> None:
    options: dict[str, Any] = {"timeout": TIMEOUT, "clock": lambda: NOW, "follow_items": False}
    with closing(Recommender(target.redis_url, target.triton_url, **options)) as client:
        # What earlier examples read is still kept by the client, which all of them share.
        read: dict[str, set[float]] = {}
        took: list[float] = []

        class Machine(ClientUnderFaults):
            def __init__(self) -> None:
                self.shop, self.target, self.client, self.took = fragile, target, client, took
                super().__init__()
                self.read = read

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=5,
                stateful_step_count=25,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert np.percentile(took, MOST) <= TIMEOUT + BUSY
