"""Whose events are not to be kept: people who were forgotten, and people who refuse to be tracked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recsys_plugin.consent.consent import Consent
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.pseudonyms import KEY_VARIABLE, Pseudonyms

__all__ = ["FORGOTTEN", "UNTRACKED", "Refusals", "Refused"]

#: Outcomes under which events are counted that are dropped.
FORGOTTEN, UNTRACKED = "forgotten", "untracked"


@dataclass(frozen=True, slots=True)
class Refused:
    """Some users of whom nothing is to be kept, and how many times people had been forgotten when that was asked."""

    reasons: Mapping[str, str]
    """User → :data:`FORGOTTEN` or :data:`UNTRACKED`."""
    revision: bytes | None


class Refusals:
    """Asks Redis, once for each batch.

    Args:
        ask: performs commands in one round trip and returns their answers.
        keys: of the project.
        names: by which people who were forgotten are recognised; without them nobody may have been forgotten.
    """

    def __init__(
        self, ask: Callable[[list[tuple[Any, ...]]], list[Any]], keys: EventKeys, names: Pseudonyms | None
    ) -> None:
        self._ask, self._keys, self._names = ask, keys, names

    def of(self, user_ids: Iterable[str]) -> Refused:
        """Which of the users are refused.

        Raises:
            ConfigurationError: if people were forgotten and the key to recognise them is missing or another one.
        """
        users = sorted(set(user_ids))
        keys, names = self._keys, self._names
        commands: list[tuple[Any, ...]] = [("MGET", keys.refusals, keys.forgotten_key)]
        if users:
            commands.append(("HMGET", keys.consent, *users))
            if names is not None:
                commands.append(("SMISMEMBER", keys.forgotten, *(names.of(user) for user in users)))
        (revision, check), *told = self._ask(commands)
        if check is not None and (names is None or names.check.encode() != check):
            raise ConfigurationError(
                f"people of project {keys.project!r} were forgotten; to recognise their events, set {KEY_VARIABLE} to "
                "the key that `recsys privacy forget` had"
            )
        reasons: dict[str, str] = {}
        if users:
            for user, value in zip(users, told[0], strict=True):
                if value is not None and not Consent.decode(value).tracking:
                    reasons[user] = UNTRACKED
            for user, gone in zip(users, told[1] if names is not None else (), strict=False):
                if gone:
                    reasons[user] = FORGOTTEN
        return Refused(reasons, revision)
