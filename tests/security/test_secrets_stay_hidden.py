"""No password or key shows where people or other processes look: ``repr``, ``str``, errors, process arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin import Recommender
from recsys_plugin.errors import ConfigurationError, RecsysError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.runtime.processes import marked_processes
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.security.model_manifest import check_repository
from recsys_plugin.settings import SECRETS, Settings

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
def test_a_redis_login_is_not_shown(secret: str, rest: str) -> None:
    for url in (
        f"redis://me:{secret}@shop{rest}",
        f"rediss://:{secret}@shop{rest}",
        f"redis-cluster://{secret}@h{rest}",
    ):
        if url.startswith("redis-cluster"):  # a name without a password is no secret
            url = url.replace("://", "://:", 1)
        assert "q7Zx" not in _shown(partial(RedisAddress.parse, url))


@given(encoded, st.sampled_from(["redis", "rediss", "unix", "redis-sentinel"]))
def test_a_password_given_as_an_option_is_refused_and_not_shown(secret: str, scheme: str) -> None:
    url = f"{scheme}://{'' if scheme == 'unix' else 'shop'}/0?password={secret}"
    with pytest.raises(ConfigurationError, match="option 'password'"):
        RedisAddress.parse(url)
    assert "q7Zx" not in _shown(lambda: RedisAddress.parse(url))


@given(encoded | secrets, st.sampled_from(["", ":1", ":port", "/x", ":1,b:2"]))
def test_a_login_for_triton_is_refused_and_not_shown(secret: str, rest: str) -> None:
    for url in (f"grpc://me:{secret}@triton{rest}", f"grpcs://:{secret}@triton{rest}"):
        assert "q7Zx" not in _shown(partial(TritonAddress.parse_several, url))


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
