"""Messages tell users apart, and nobody whom they are about."""

from __future__ import annotations

import pytest

from recsys_plugin import user_names
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.user_names import DIGITS, named_user

KEY = "0123456789abcdef0123456789abcdef"


def test_with_a_key_a_name_is_that_of_the_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", KEY)
    user_names._of_process.cache_clear()
    assert named_user("2020") == f"user#{Pseudonyms(KEY).of('2020')[:DIGITS]}"
    user_names._of_process.cache_clear()


@pytest.mark.parametrize("key", ["", "too short"])
def test_without_one_a_name_holds_for_the_process(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", key)
    user_names._of_process.cache_clear()
    name = named_user("2020")
    assert name == named_user("2020") != named_user("2021")
    assert "2020" not in name.removeprefix("user#") or len(name) == len("user#") + DIGITS
    user_names._of_process.cache_clear()
    assert named_user("2020") != name
    user_names._of_process.cache_clear()
