"""A version on trial with real traffic: assigned, compared, and taken back by itself when it is worse."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tiny_shop import ITEM_IDS, NOW, TinyShop

from recsys_plugin import AsyncRecommender, InvalidInput, Page, Recommender, RecsysError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.requests import promotion_key
from recsys_plugin.trials.assignment import arm_of, is_shadowed
from recsys_plugin.trials.operations import Trials
from recsys_plugin.trials.trial import CANDIDATE, CONTROL, SHADOW, Thresholds, Trial

NAN = float("nan")
USERS = tuple(f"user-{number}" for number in range(400))
#: Version 1 serves; the others are made worse, each in its own way, but for 2.
SAME, SHIFTED, FAILING, EMPTY, SLOW, ENDLESS, GONE = 2, 3, 4, 5, 6, 7, 9


@pytest.fixture(scope="module")
def shop(module_shop: TinyShop) -> TinyShop:
    for version, made in ((SAME, {}), (SHIFTED, {"shift": 3.0}), (FAILING, {"spoilt": NAN}), (EMPTY, {"shift": NAN})):
        module_shop.publish(version, ITEM_IDS, **made)
    module_shop.publish(SLOW, ITEM_IDS, slow=4)
    module_shop.publish(ENDLESS, ITEM_IDS, slow=6000)
    for number, user in enumerate(USERS):
        module_shop.write_user(user, (number % 20) / 20, [])
    with RedisAddress.parse(module_shop.admin_url).connect(5) as redis:
        redis.set(promotion_key("recsys"), 1)
    return module_shop


@pytest.fixture
def trials(shop: TinyShop) -> Iterator[Trials]:
    with Trials(shop.operations_url) as trials:
        yield trials
        trials.remove()


def start(trials: Trials, candidate: int, **options: object) -> Trial:
    return trials.start(control=1, candidate=candidate, salt="a salt", **({"share": 0.3} | options))  # type: ignore[arg-type]


@contextmanager
def client_of(shop: TinyShop, **options: object) -> Iterator[Recommender]:
    with Recommender(
        shop.redis_url,
        shop.triton_url,
        **({"timeout": 20, "refresh_every": 0.1, "clock": lambda: NOW} | options),  # type: ignore[arg-type]
    ) as client:
        yield client


class Traffic:
    """Threads that ask without pause until the trial has ended, and what they saw."""

    def __init__(self, client: Recommender, trials: Trials) -> None:
        self.pages: list[Page] = []
        self.failures: list[BaseException] = []
        self.ended: Trial | None = None
        self._client, self._over = client, threading.Event()
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 120
        try:
            while time.monotonic() < deadline and self.ended is None:
                trial = trials.read()
                if trial is not None and not trial.running:
                    self.ended = trial
                self._over.wait(0.05)
        finally:
            self._over.set()
            for thread in threads:
                thread.join(timeout=60)

    def _ask(self, number: int) -> None:
        try:
            while not self._over.is_set():
                number += 16
                self.pages.append(self._client.recommend(USERS[number % len(USERS)], 3))
        except RecsysError as error:
            self.failures.append(error)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (SHIFTED, "score drift: the scores of recommend pages"),
        (FAILING, "error rate: "),
        (GONE, "error rate: "),
        (EMPTY, "empty pages: "),
        (SLOW, "latency: the 95th percentile"),
    ],
    ids=["scores shifted", "fails", "is not there", "finds nothing", "slow"],
)
def test_a_worse_version_is_rolled_back_by_itself(shop: TinyShop, trials: Trials, candidate: int, reason: str) -> None:
    # A busy machine may hold up a server's thread for one version and not for the other.
    thresholds = Thresholds() if candidate == SLOW else Thresholds(latency_ratio=None)
    with client_of(shop) as client:
        trial = start(trials, candidate, thresholds=thresholds)
        traffic = Traffic(client, trials)
        assert traffic.failures == []
        assert traffic.ended is not None, trials.looks(trial)[-1:]
        assert traffic.ended.status == "rolled back"
        assert str(traffic.ended.reason).startswith(reason)
        assert trials.history()[-1] == traffic.ended
        # From the next look on, everybody gets the control.
        client.refresh()
        assert {client.recommend(user).served_by.version for user in USERS[:40]} == {1}
        assert client.recommend(USERS[0]).served_by.arm is None
    arms = Counter((page.served_by.arm, page.served_by.version) for page in traffic.pages)
    assert set(arms) <= {(None, 1), (CONTROL, 1), (CANDIDATE, candidate)}
    assert (arms[CANDIDATE, candidate] > 0) == (candidate not in (FAILING, GONE))
    (counts,) = trials.counts(trial)
    assert counts[CANDIDATE].requests > 0
    assert counts[CONTROL].errors == 0
    assert trials.looks(trial)[-1]["arms"][CANDIDATE]["requests"] <= counts[CANDIDATE].requests


def test_arms_and_order(shop: TinyShop, trials: Trials) -> None:
    trial = start(trials, SAME)
    # What is counted while a look writes down the counts, and the client closes, may be lost.
    with client_of(shop, refresh_every=None) as client:
        pages = client.recommend_many(USERS[:60], 3)
        assert [page.user_id for page in pages] == list(USERS[:60])
        assert [page.served_by.arm for page in pages] == [arm_of(trial, user) for user in USERS[:60]]
        for page in pages:
            assert page.served_by.version == {CONTROL: 1, CANDIDATE: SAME}[str(page.served_by.arm)]
            assert client.search(page.user_id, "tea").served_by.arm == page.served_by.arm
            assert client.rank(page.user_id, ["tea", "cup"]).served_by.arm == page.served_by.arm
        # Nobody belongs to no arm.
        assert client.search(None, "tea").served_by.arm is None
        assert client.similar_items("tea").served_by.arm is None
        for wrong in ("", 1.5):
            with pytest.raises(InvalidInput):
                client.recommend(wrong)
        with pytest.raises(InvalidInput, match="k"):
            client.recommend(USERS[0], -1)
        # A larger share takes further users, and keeps those it had.
        had = {page.user_id for page in pages if page.served_by.arm == CANDIDATE}
        trials.set_share(0.6)
        client.refresh()
        has = {page.user_id for page in client.recommend_many(USERS[:60], 3) if page.served_by.arm == CANDIDATE}
        assert had < has
    first, second = trials.counts(trials.find(None))
    assert first[CONTROL].requests + first[CANDIDATE].requests == 180
    assert first[CANDIDATE].users == len(had)
    assert second[CANDIDATE].requests == len(has)
    assert first[CONTROL].errors == first[CANDIDATE].errors == 0

    async def awaiting() -> None:
        async with AsyncRecommender(shop.redis_url, shop.triton_url, timeout=20, clock=lambda: NOW) as other:
            asked = await other.recommend_many(USERS[:60], 3)
            assert {page.user_id for page in asked if page.served_by.arm == CANDIDATE} == has

    asyncio.run(awaiting())
    assert trials.counts(trials.find(None))[1][CANDIDATE].requests == 2 * len(has)


def test_the_control_steps_in_before_the_time_is_over(shop: TinyShop, trials: Trials) -> None:
    trial = start(trials, ENDLESS, share=1.0)
    with client_of(shop, refresh_every=None) as client:
        began = time.monotonic()
        page = client.recommend(USERS[0], 3, timeout=4.0)
        taken = time.monotonic() - began
        assert taken < 4.0
        assert (page.served_by.arm, page.served_by.version, len(page)) == (CONTROL, 1, 3), (taken, page.timings)
    (counts,) = trials.counts(trial)
    assert (counts[CANDIDATE].requests, counts[CANDIDATE].errors, counts[CONTROL].requests) == (1, 1, 0)
    # It had half the time, and used it.
    asked = counts[CANDIDATE].latency.quantile(0.5)
    assert asked is not None
    assert 2000 * 0.98 <= asked <= 1000 * taken * 1.02


def test_the_trial_ends_when_another_version_is_promoted(shop: TinyShop, trials: Trials) -> None:
    start(trials, SAME)
    with RedisAddress.parse(shop.admin_url).connect(5) as redis, client_of(shop, refresh_every=None) as client:
        assert client.recommend(USERS[0]).served_by.arm is not None
        redis.set(promotion_key("recsys"), SAME)
        try:
            ended = trials.look_after("a test")
            assert ended is not None
            assert (ended.status, ended.reason) == (
                "stopped",
                "version 2 was made to serve in place of the control",
            )
            client.refresh()
            page = client.recommend(USERS[0])
            assert (page.served_by.version, page.served_by.arm) == (SAME, None)
        finally:
            redis.set(promotion_key("recsys"), 1)


@pytest.mark.parametrize("candidate", [SAME, SHIFTED])
def test_shadow(shop: TinyShop, trials: Trials, candidate: int) -> None:
    """Everybody is served by the control; the candidate is asked for the drawn requests, and nobody waits for it."""
    trial = start(trials, candidate, mode=SHADOW, share=1.0, thresholds=Thresholds(psi=None))
    with client_of(shop, refresh_every=None) as client:
        for user in USERS[:40]:
            page = client.recommend(user, 3)
            assert (page.served_by.version, page.served_by.arm) == (1, CONTROL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            client.refresh()
            (counts,) = trials.counts(trial)
            if counts[CANDIDATE].requests + counts[CANDIDATE].dropped == 40:
                break
    assert counts[CONTROL].requests == 40
    shadows = counts[CANDIDATE]
    assert shadows.requests + shadows.dropped == 40
    assert shadows.errors == 0
    # Every score is shifted by the same amount, so the order stays.
    assert shadows.overlap.mean == shadows.rank_correlation.mean == 1.0
    shift = (shadows.score_moments["recommend"].mean or 0.0) - (counts[CONTROL].score_moments["recommend"].mean or 0.0)
    if shadows.dropped == 0:
        assert shift == pytest.approx({SAME: 0.0, SHIFTED: 6.0}[candidate], abs=1e-4)


async def test_shadow_of_the_awaiting_client(shop: TinyShop, trials: Trials) -> None:
    trial = start(trials, SAME, mode=SHADOW, share=0.5)
    async with AsyncRecommender(
        shop.redis_url, shop.triton_url, timeout=20, clock=lambda: NOW, refresh_every=None
    ) as client:
        pages = [await client.recommend(user, 3) for user in USERS[:40]]
        assert {(page.served_by.version, page.served_by.arm) for page in pages} == {(1, CONTROL)}
        drawn = sum(is_shadowed(trial, page.request_id) for page in pages)
        assert 5 < drawn < 35
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            await client.refresh()
            (counts,) = trials.counts(trial)
            if counts[CANDIDATE].requests + counts[CANDIDATE].dropped == drawn:
                break
            await asyncio.sleep(0.01)
    assert counts[CANDIDATE].requests + counts[CANDIDATE].dropped == drawn
    assert counts[CANDIDATE].overlap.mean == 1.0
