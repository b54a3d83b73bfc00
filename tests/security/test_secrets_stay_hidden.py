"""No password or key shows where people or other processes look: ``repr``, ``str``, errors, process arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from recsys_plugin import Recommender
from recsys_plugin.errors import ConfigurationError, RecsysError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.runtime.processes import marked_processes
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.runtime.services import public_url
from recsys_plugin.security.model_manifest import check_repository
from recsys_plugin.settings import SECRETS, Settings
from recsys_plugin.urls import shown_url

_ALPHABET = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"))
#: What no text around it can hold by chance.
secrets = st.text(_ALPHABET, max_size=12).map(lambda text: f"q7Zx{text}")
encoded = secrets.map(lambda text: quote(text, safe=""))


def _shown(call: Callable[[], object]) -> str:
    """All that a call lets people see: what it returns, or its error and that error's causes."""
    try:
        result = call()
    except RecsysError as error:
        seen: list[str] = []
        cause: BaseException | None = error
        while cause is not None:
            seen += [str(cause), repr(cause)]
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        return " ".join(seen)
    return f"{result} {result!r}"


@given(encoded | secrets, st.sampled_from(["", "/0", "/x", "/0?db=x", "/0?tls=1", ":port", "/a/b/c", ",other:1"]))
@example("q7Zx:0", "")
def test_a_redis_login_is_not_shown(secret: str, rest: str) -> None:
    alone = secret.replace(":", "%3A")  # what is before a colon is a login's name, which may be seen
    for url in (
        f"redis://me:{secret}@shop{rest}",
        f"rediss://:{secret}@shop{rest}",
        f"redis-cluster://{alone}@h{rest}",
    ):
        assert "q7Zx" not in _shown(partial(RedisAddress.parse, url))


@given(encoded, st.sampled_from(["redis", "rediss", "unix", "redis-sentinel"]))
def test_a_password_given_as_an_option_is_refused_and_not_shown(secret: str, scheme: str) -> None:
    url = f"{scheme}://{'' if scheme == 'unix' else 'shop:1'}/0?password={secret}"
    with pytest.raises(ConfigurationError, match="option 'password'"):
        RedisAddress.parse(url)
    assert "q7Zx" not in _shown(lambda: RedisAddress.parse(url))


@given(encoded | secrets, st.sampled_from(["", ":1", ":port", "/x", ":1,b:2"]))
def test_a_login_for_triton_is_refused_and_not_shown(secret: str, rest: str) -> None:
    for url in (f"grpc://me:{secret}@triton{rest}", f"grpcs://:{secret}@triton{rest}"):
        assert "q7Zx" not in _shown(partial(TritonAddress.parse_several, url))


#: Where a password ends up in a URL that was typed wrongly; most have no ``@``, or nothing behind it.
_MISTYPED = (
    "{scheme}://{secret}", "{scheme}://:{secret}", "{scheme}://me:{secret}", "{scheme}://me:{secret}@",
    "{scheme}://{secret}@", "{scheme}://{secret}/0", "{scheme}://:{secret}/0", "{scheme}://{secret}?db=1",
    "{scheme}://shop/{secret}", "{scheme}://shop:1/{secret}", "{scheme}://shop:1/0/{secret}", "{scheme}://shop:{secret}",
    "{scheme}://shop:1:{secret}", "{scheme}://shop:1,{secret}", "{scheme}://shop:1,:{secret}",
    "{scheme}://shop:1?{secret}", "{scheme}://shop:1?{secret}=1", "{scheme}://shop:1?password={secret}",
    "{scheme}://shop:1?db={secret}", "{scheme}://shop:1#{secret}", "{scheme}://shop:1/0#{secret}",
    "{scheme}:/{secret}@shop:1", "{scheme}:{secret}", "{scheme}:/{secret}", "{secret}", "{secret}://shop:1",
    "me:{secret}", "me:{secret}@shop:1", "://{secret}", "{scheme}://[{secret}", "{scheme}://[{secret}]:1",
    "{scheme}://[::1]{secret}", "{scheme}://{secret}:{secret}", "{scheme}:///{secret}@shop:1", "{scheme}://{secret}//",
    "{scheme}://me@{secret}@", "{scheme}://,{secret}", "{scheme}{secret}://shop:1", " {scheme}://{secret}",
    "{scheme}://me:pa/{secret}@shop:1/0", "{scheme}://me:pa?{secret}@shop:1/0", "{scheme}://{secret}\\@shop:1",
)  # fmt: skip
_ANY_SCHEME = ("redis", "rediss", "unix", "redis-cluster", "rediss-cluster", "redis-sentinel", "grpc", "grpcs", "http")


def _everything_shown(url: str) -> str:
    """What parsing a URL as that of Redis and of Triton lets people see, in messages, ``repr`` and text."""
    return (
        _shown(partial(RedisAddress.parse, url)) + _shown(partial(TritonAddress.parse_several, url)) + public_url(url)
    )


@settings(max_examples=400)
@given(
    st.sampled_from(_MISTYPED),
    st.sampled_from(_ANY_SCHEME),
    encoded | secrets | st.from_regex("q7Zx[a-z0-9.:_-]{0,9}", fullmatch=True),
)
def test_no_part_of_a_mistyped_url_that_could_be_a_password_is_shown(form: str, scheme: str, secret: str) -> None:
    # The name of a sentinel's master is shown: there it stands where it belongs.
    assume(scheme != "redis-sentinel" or "/{secret}" not in form.partition("://")[2])
    # What looks like a host with its port is one.
    assume(re.search(":[0-9]{1,5}$", secret) is None)
    assert "q7zx" not in _everything_shown(form.format(scheme=scheme, secret=secret)).lower()


@settings(max_examples=300)
@given(st.sampled_from(_ANY_SCHEME), st.text("q:@/?#[],=.1 \\%", max_size=8), st.text("q:@/?#[],=.1 \\%", max_size=8))
def test_nor_of_any_other_url_without_a_host_behind_its_login(scheme: str, before: str, after: str) -> None:
    url = f"{scheme}://{before}Zx7{after}"
    shown = _everything_shown(url).lower()
    # What follows the last @, or has a port, or the path of a socket, has the form of a host or path beyond doubt.
    location = url.rpartition("@")[2] if "@" in url else url.partition("://")[2]
    certain = "@" in url or re.search(r"[\w.-]+:[0-9]+", location) or scheme == "unix"
    assert certain or "zx7" not in shown


def test_what_helps_is_shown() -> None:
    for url, shown in {
        "redis://me:secret@shop/0": "redis://***@shop/0",
        "rediss://shop:6380/1?ssl_ca_certs=ca.pem": "rediss://shop:6380/1?***",
        "redis-cluster://a:1,b:2": "redis-cluster://a:1,b:2",
        "redis-sentinel://:secret@a,b:2/main/5": "redis-sentinel://***@a,b:2/***/5",
        "redis://localhost": "redis://localhost",
        "redis://[::1]/3": "redis://[::1]/3",
        "unix:///run/redis.sock?db=2": "unix:///run/redis.sock?***",
        "grpc://first:8001,second:8001": "grpc://first:8001,second:8001",
        "redis://secret": "redis://***",
        "http://secret": "***",
    }.items():
        assert shown_url(url) == shown
    assert public_url("redis://me:secret@shop:1/0") == "redis://shop:1/0"
    assert repr(RedisAddress.parse("redis://secret@shop:1")) == "RedisAddress(redis://***@shop:1, database 0)"
    assert repr(RedisAddress.parse("redis://me:secret@shop:1")) == "RedisAddress(redis://me:***@shop:1, database 0)"


def test_a_client_logs_no_part_of_a_mistyped_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    for redis_url, triton_url in (
        ("redis://q7Zx-password", "grpc://127.0.0.1:1"),
        ("redis://:q7Zx-password", "grpc://127.0.0.1:1"),
        ("redis://127.0.0.1:1", "grpc://:q7Zx-password"),
        ("redis://127.0.0.1:1/q7Zx", "grpc://q7Zx-password"),
    ):
        shown = _shown(partial(Recommender, redis_url, triton_url))
        assert "URL" in shown
        assert "q7Zx" not in shown + caplog.text
        environ = {"RECSYS_REDIS_URL": redis_url, "RECSYS_TRITON_URL": triton_url}
        assert "q7Zx" not in _shown(partial(Settings.from_environment, environ)) + caplog.text


@given(secrets, st.sampled_from(SECRETS))
def test_settings_show_no_secret(secret: str, name: str) -> None:
    assert "q7Zx" not in _shown(lambda: Settings.from_environment({name: secret, "RECSYS_HOME": "/nowhere"}))


@pytest.mark.parametrize("key", ["q7Zx", "q7Zx é"])
def test_a_key_that_is_too_short_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    refusals = (
        lambda: check_repository(tmp_path, key=key),
        lambda: Recommender("redis://localhost:1", "grpc://localhost:1", pseudonym_key=key),
    )
    for call in refusals:
        with pytest.raises(RecsysError):
            call()
        assert "q7Zx" not in _shown(call)


def test_a_client_that_finds_no_server_shows_no_secret() -> None:
    shown = _shown(
        lambda: Recommender("redis://me:q7Zx-password@127.0.0.1:1", "grpc://127.0.0.1:1", pseudonym_key="q7Zx" * 8)
    )
    assert "127.0.0.1" in shown
    assert "q7Zx" not in shown


def test_servers_are_started_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "q7Zx-secret")
    server = EmbeddedRedis(tmp_path)
    server.start()
    try:
        pids = marked_processes(server.process.mark)
        assert pids
        for pid in pids:
            for file in ("cmdline", "environ"):
                assert b"q7Zx" not in Path(f"/proc/{pid}/{file}").read_bytes()
    finally:
        server.stop()
