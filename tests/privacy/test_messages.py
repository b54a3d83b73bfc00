"""Messages tell users apart, and nobody whom they are about."""

from __future__ import annotations

import pytest

from recsys_plugin.privacy import messages
from recsys_plugin.privacy.messages import DIGITS, named_user
from recsys_plugin.pseudonyms import Pseudonyms

KEY = "0123456789abcdef0123456789abcdef"


def test_with_a_key_a_name_is_that_of_the_shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", KEY)
    messages._of_process.cache_clear()
    assert named_user("2020") == f"user#{Pseudonyms(KEY).of('2020')[:DIGITS]}"
    messages._of_process.cache_clear()


@pytest.mark.parametrize("key", ["", "too short"])
def test_without_one_a_name_holds_for_the_process(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", key)
    messages._of_process.cache_clear()
    name = named_user("2020")
    assert name == named_user("2020") != named_user("2021")
    assert "2020" not in name.removeprefix("user#") or len(name) == len("user#") + DIGITS
    messages._of_process.cache_clear()
    assert named_user("2020") != name
    messages._of_process.cache_clear()
