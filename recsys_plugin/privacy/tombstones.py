"""Who was forgotten, as pseudonyms: what keeps late events, replays and restored files from bringing a person back.

A tombstone is the keyed hash of an id (:mod:`recsys_plugin.pseudonyms`). Nobody can read an id from it; whoever has the
key can tell whether a given id is among them. It is the one thing that is left of a person, in Redis (a set) and in the
home (``.recsys/privacy/forgotten.json``).
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.pseudonyms import KEY_VARIABLE, Pseudonyms
from recsys_plugin.settings import Settings

__all__ = ["Tombstones", "bury_in_store", "raise_in_store", "required_names", "tombstones_path"]


def tombstones_path(settings: Settings) -> Path:
    """Where a home keeps its tombstones."""
    return settings.state / "privacy" / "forgotten.json"


def required_names(settings: Settings) -> Pseudonyms:
    """The pseudonyms under the shop's key.

    Raises:
        ConfigurationError: if there is no key.
    """
    if settings.pseudonym_key is None:
        raise ConfigurationError(
            f"who is forgotten is remembered as a keyed hash, so that nothing brings him back; set {KEY_VARIABLE}, the "
            "same as for exports, clients and `recsys stream`"
        )
    return Pseudonyms(settings.pseudonym_key)


@dataclass(frozen=True, slots=True)
class Tombstones:
    """The people whom a home has forgotten.

    Attributes:
        names: of the key that they were made with; ``None`` if nobody was forgotten. forgotten: their pseudonyms.
    """

    names: Pseudonyms | None = None
    forgotten: frozenset[str] = frozenset()

    @classmethod
    def read(cls, settings: Settings) -> Tombstones:
        """Those of a home.

        Raises:
            ConfigurationError: if there are some and the key to recognise them is missing or another one, or if the
                file is damaged: nobody is let back in by mistake.
        """
        path = tombstones_path(settings)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            check, forgotten = str(document["key_check"]), frozenset(map(str, document["forgotten"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigurationError(f"{path} is damaged ({error!r}); restore it from a backup") from error
        if not forgotten:
            return cls()
        names = required_names(settings)
        if names.check != check:
            raise ConfigurationError(f"{path} was made with another {KEY_VARIABLE}; set that one")
        return cls(names, forgotten)

    def __contains__(self, user_id: str) -> bool:
        return self.names is not None and self.names.of(user_id) in self.forgotten

    def __bool__(self) -> bool:
        return bool(self.forgotten)

    def among(self, user_ids: Iterable[str | None]) -> frozenset[str]:
        """Which of the ids are of people who were forgotten."""
        if not self.forgotten:
            return frozenset()
        return frozenset(user_id for user_id in user_ids if user_id is not None and user_id in self)

    def changed(self, settings: Settings, *, added: Iterable[str] = (), removed: Iterable[str] = ()) -> Tombstones:
        """The same with further people, or without some, written to the home; the file is never half written.

        Args:
            added, removed: ids.
        """
        names = self.names or required_names(settings)
        forgotten = (self.forgotten | {names.of(one) for one in added}) - {names.of(one) for one in removed}
        path = tombstones_path(settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump({"key_check": names.check, "forgotten": sorted(forgotten)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return Tombstones(names, forgotten)


def bury_in_store(client: Any, keys: EventKeys, names: Pseudonyms, user_ids: Iterable[str]) -> None:
    """Tell the stream's workers and archives, from now on, that these people are forgotten.

    The revision is what a worker watches: one that looked before this does not commit after it.

    Raises:
        ConfigurationError: if those in Redis were made with another key.
    """
    held = client.get(keys.forgotten_key)
    if held is not None and held.decode() != names.check:
        raise ConfigurationError(f"Redis holds tombstones made with another {KEY_VARIABLE}; set that one")
    pipeline = client.pipeline(transaction=True)
    pipeline.set(keys.forgotten_key, names.check)
    pipeline.sadd(keys.forgotten, *(names.of(user_id) for user_id in user_ids))
    pipeline.execute_command("INCR", keys.refusals)
    pipeline.execute()


def raise_in_store(client: Any, keys: EventKeys, names: Pseudonyms, user_ids: Iterable[str]) -> int:
    """Let people in again, who came back as customers; how many were forgotten."""
    pipeline = client.pipeline(transaction=True)
    pipeline.srem(keys.forgotten, *(names.of(user_id) for user_id in user_ids))
    pipeline.execute_command("INCR", keys.refusals)
    return int(pipeline.execute()[0])
