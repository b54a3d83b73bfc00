"""Users who are alike, on the tiny shop: pseudonymous, without those who opted out, in groups of a least size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_people
from tiny_people import KEY, PSEUDONYMS, USERS
from tiny_shop import NOW, TinyShop

from recsys_plugin import AsyncRecommender, ConfigurationError, InvalidInput, Recommender
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.pseudonyms import opted_out_key


@pytest.fixture(scope="module")
def client(tiny: TinyShop) -> Iterator[Recommender]:
    with Recommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW, pseudonym_key=KEY) as recommender:
        yield recommender


@pytest.fixture
def opt_out(tiny: TinyShop) -> Iterator[Any]:
    """Names users who opt out now; all are back afterwards."""
    redis: Any = RedisAddress.parse(tiny.admin_url).connect(5)
    key = opted_out_key("recsys")
    yield lambda *users: redis.sadd(key, *(PSEUDONYMS.of(user) for user in users))
    redis.delete(key)
    redis.close()


def names(*users: str) -> list[str]:
    return [PSEUDONYMS.of(user) for user in users]


def test_neighbours_are_pseudonyms_nearest_first(client: Recommender) -> None:
    found = client.similar_users("mug-lover")
    assert [user.pseudonym for user in found] == names("second", "third", "fourth", "fifth")
    assert [round(user.similarity, 4) for user in found][:2] == [1.3868, 1.3416]
    assert (found.known, found.user_id, found.version, len(found)) == (True, "mug-lover", 1, 4)
    assert not any(user_id in str(found.to_dict()["users"]) for user_id in USERS)
    assert [user.pseudonym for user in client.similar_users("mug-lover", 1)] == names("second")
    assert len(client.similar_users("mug-lover", 10**20)) == 4
    assert client.pseudonym("second") == found[0].pseudonym


def test_who_opts_out_is_gone_at_the_next_request(client: Recommender, opt_out: Any) -> None:
    opt_out("second", "fourth")
    assert [user.pseudonym for user in client.similar_users("mug-lover", 2)] == names("third", "fifth")
    opt_out("mug-lover")
    assert len(client.similar_users("mug-lover")) == 0
    assert client.community("mug-lover") is None


def test_more_are_asked_for_when_many_opted_out(
    client: Recommender, opt_out: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys_plugin.client.people._SPARE", 0)
    opt_out("second", "third", "fourth")
    assert [user.pseudonym for user in client.similar_users("mug-lover", 1)] == names("fifth")


@pytest.mark.parametrize("user_id", ["never seen", "🫖", "'; DROP TABLE users; --"])
def test_nobody_is_like_one_of_whom_nothing_is_known(client: Recommender, user_id: str) -> None:
    found = client.similar_users(user_id)
    assert (len(found), found.known) == (0, False)
    assert client.community(user_id) is None


def test_k_of_0_asks_no_server(client: Recommender) -> None:
    assert len(client.similar_users("mug-lover", 0)) == 0


def test_a_community_tells_its_size_and_what_it_likes(client: Recommender) -> None:
    found = client.community("mug-lover")
    assert found is not None
    assert (found.number, found.members, found.item_ids, found.categories) == (
        0,
        40,
        ("mug", "tea"),
        ("kitchen", "food"),
    )
    assert found.to_dict()["version"] == 1


@pytest.mark.parametrize("user_id", ["", "a\nb", "y" * 10_000, 1.5])
def test_what_is_no_id(client: Recommender, user_id: Any) -> None:
    for ask in (client.similar_users, client.community, client.pseudonym):
        with pytest.raises(InvalidInput, match="user_id"):
            ask(user_id)


def test_keys(tiny: TinyShop, recommender: Recommender) -> None:
    for ask in (recommender.similar_users, recommender.community, recommender.pseudonym):
        with pytest.raises(ConfigurationError, match="RECSYS_PSEUDONYM_KEY"):
            ask("mug-lover")
    other = Recommender(
        tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW, pseudonym_key="a key just as long"
    )
    with other, pytest.raises(ConfigurationError, match="another key than version 1 was exported with"):
        other.community("mug-lover")
    with pytest.raises(ConfigurationError, match="16 bytes or more"):
        Recommender(tiny.redis_url, tiny.triton_url, pseudonym_key="short")


async def test_the_awaiting_client_says_the_same(tiny: TinyShop, client: Recommender) -> None:
    async with AsyncRecommender(
        tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW, pseudonym_key=KEY
    ) as other:
        assert (await other.similar_users("mug-lover", 3)).users == client.similar_users("mug-lover", 3).users
        assert await other.community("mug-lover") == client.community("mug-lover")


def test_the_tiny_people_are_as_described() -> None:
    assert tiny_people.people().communities.sizes.min() >= 20
