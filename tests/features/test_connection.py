"""Redis URLs: what they mean, what Feast makes of them, and what is never shown."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import pytest
import redis
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.connection import RedisAddress


@pytest.mark.parametrize(
    "url, kind, nodes, database",
    [
        ("redis://me@shop", "redis", (("shop", 6379),), 0),
        ("redis://shop:7000/3", "redis", (("shop", 7000),), 3),
        ("redis://:secret@shop?db=4", "redis", (("shop", 6379),), 4),
        ("redis://[::1]:7000", "redis", (("::1", 7000),), 0),
        ("rediss://:secret@shop", "redis", (("shop", 6379),), 0),
        ("redis://localhost", "redis", (("localhost", 6379),), 0),
        ("redis://10.0.0.1/2", "redis", (("10.0.0.1", 6379),), 2),
        ("redis://[::1]", "redis", (("::1", 6379),), 0),
        ("redis-cluster://a:1,b:2", "redis_cluster", (("a", 1), ("b", 2)), 0),
        ("redis-sentinel://x:y@a,b:2/main/5", "redis_sentinel", (("a", 26379), ("b", 2)), 5),
        ("unix:///run/redis.sock?db=2", "redis", (), 2),
    ],
)
def test_forms(url: str, kind: str, nodes: tuple[Any, ...], database: int) -> None:
    address = RedisAddress.parse(url)
    assert (address.kind, address.nodes, address.database) == (kind, nodes, database)
    assert address.tls == url.startswith("rediss")
    assert address.feast_redis_type() == RedisType(kind).value


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop:6379",
        "http://shop",
        "redis://",
        "redis://shop:none",
        "redis://shop:99999",
        "redis://a:1,b:2",
        "redis://shop",
        "redis-cluster://a:1,b",
        "redis://[::1",
        "redis://shop:1/x",
        "redis://shop:1/1/2",
        "redis-cluster://a:1,b:1/1",
        "redis-sentinel://a:1",
        "unix://",
        "unix://host/path",
        "redis://shop:1?ssl_ca_certs=ca.pem",
        "rediss://shop:1?surprise=1",
        "rediss://shop:1?ssl_check_hostname=perhaps",
    ],
)
def test_other_forms_are_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Redis URL"):
        RedisAddress.parse(url)


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@given(_TEXT, _TEXT)
def test_feast_reads_any_login_back(user: str, password: str) -> None:
    address = RedisAddress.parse(
        f"rediss://{quote(user, safe='')}:{quote(password, safe='')}@shop:7000/2?ssl_ca_certs=/a b,c"
    )
    nodes, options = RedisOnlineStore._parse_connection_string(address.feast_connection_string(timeout=1.5))
    assert nodes == [{"host": "shop", "port": "7000"}]
    assert options == {
        "username": user,
        "password": password,
        "db": 2,
        "ssl": True,
        "ssl_ca_certs": "/a b,c",
        "ssl_check_hostname": True,
        "socket_timeout": 1.5,
        "socket_connect_timeout": 1.5,
        "retry": None,
    }


@given(_TEXT.filter(lambda text: len(text) > 3))
def test_the_password_is_never_shown(password: str) -> None:
    """What is shown is the same for every password; a password such as "Redi" may well occur in the text around it."""

    def shown(secret: str) -> tuple[str, str]:
        with pytest.raises(ConfigurationError) as caught:
            RedisAddress.parse(f"redis://me:{secret}@shop/no-number")
        return repr(RedisAddress.parse(f"redis://me:{secret}@shop")), str(caught.value)

    assert shown(quote(password, safe="")) == shown("another")


@pytest.mark.parametrize(
    "url", ["redis://me:sec/ret@shop/x", "redis://me:sec?ret@shop/x", "redi://me:sec@ret@shop", "redis:me:sec ret@x"]
)
def test_nor_is_one_that_was_not_encoded(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RedisAddress.parse(url)
    assert "sec" not in str(caught.value)
    assert "ret" not in str(caught.value)


def test_ipv6_cannot_be_told_to_feast() -> None:
    with pytest.raises(ConfigurationError, match="IPv6"):
        RedisAddress.parse("redis://[::1]:7000").feast_connection_string()


@pytest.mark.parametrize("form", ["tcp", "unix"])
def test_feast_connects_with_our_string(redis_server: Any, form: str) -> None:
    url = redis_server.url if form == "tcp" else f"unix://{redis_server.socket_path}?db=1"
    address = RedisAddress.parse(url)
    config = RedisOnlineStoreConfig(
        redis_type=RedisType(address.feast_redis_type()), connection_string=address.feast_connection_string()
    )
    client = RedisOnlineStore()._get_client(config)
    assert client is not None
    assert client.ping()
    client.close()


def test_feast_does_not_wait_for_a_server_that_is_away(free_tcp_port: int) -> None:
    address = RedisAddress.parse(f"redis://127.0.0.1:{free_tcp_port}")
    config = RedisOnlineStoreConfig(connection_string=address.feast_connection_string())
    client = RedisOnlineStore()._get_client(config)
    assert client is not None
    seconds = []
    for _ in range(5):  # the fewest seconds of several tries, as this process may be held up
        started = time.monotonic()
        with pytest.raises(redis.ConnectionError, match="refused"):
            client.ping()
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.5
    client.close()
