"""One person, and how his id looks wherever it may stand: exactly where there is structure, as bytes elsewhere.

An id such as ``2020`` occurs by chance: as a year, as another thing's number, in the middle of packed numbers. It is
therefore looked for where something says that it is a user's. An id that cannot occur by chance
(:attr:`Person.distinctive`) is looked for in every byte as well, and so is his pseudonym where it is known: logs,
reports and models name people by it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recsys_plugin.features.codec import entity_key_prefix, entity_key_value
from recsys_plugin.identifiers import checked_id
from recsys_plugin.pseudonyms import Pseudonyms, halves_of
from recsys_plugin.user_names import DIGITS, PREFIX

__all__ = ["Person", "in_file", "people_of"]

#: Bytes that an id must have, digits not alone, to be one that does not occur by chance.
_DISTINCTIVE = 8
#: Bytes of a file that are looked at at a time.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Person:
    """A user by his id.

    Args:
        user_id: as the shop has it.
        project: the Feast project.
        pseudonym: 32 hexadecimal digits; ``None`` without the key, and then nobody can look for it.

    Raises:
        InvalidInput: if it is no id.
    """

    user_id: str
    project: str = "recsys"
    pseudonym: str | None = None

    def __post_init__(self) -> None:
        checked_id(self.user_id, "USER")

    @cached_property
    def distinctive(self) -> bool:
        """Whether the id's bytes do not occur by chance."""
        return len(self.user_id.encode()) >= _DISTINCTIVE and not self.user_id.isdecimal()

    @cached_property
    def entity_values(self) -> tuple[bytes, ...]:
        """The id in Feast's entity keys: as text, and as a number where it is one."""
        values = [entity_key_value(self.user_id)]
        digits = self.user_id.removeprefix("-")
        if digits.isdecimal() and digits.isascii() and str(int(self.user_id)) == self.user_id:
            number = int(self.user_id)
            if -(2**63) <= number < 2**63:
                values.append(entity_key_value(number))
        return tuple(values)

    @cached_property
    def feature_keys(self) -> tuple[bytes, ...]:
        """The Redis keys of his features."""
        return tuple(entity_key_prefix("user_id") + value + self.project.encode() for value in self.entity_values)

    @cached_property
    def needles(self) -> tuple[bytes, ...]:
        """Bytes that say that something is about this person, wherever they stand."""
        text = self.user_id
        quoted = {json.dumps(text, ensure_ascii=True), json.dumps(text, ensure_ascii=False)}
        needles = [entity_key_prefix("user_id") + value for value in self.entity_values]
        needles += [f'"user_id":{space}{one}'.encode() for one in sorted(quoted) for space in ("", " ")]
        if self.distinctive:
            needles += [text.encode(), text.encode("utf-32-le"), text.encode("utf-16-le")]
            needles += [one[1:-1].encode() for one in sorted(quoted)]
        return tuple(dict.fromkeys(needles))

    @cached_property
    def name_texts(self) -> tuple[str, ...]:
        """His pseudonym in text: whole, and as messages shorten it."""
        return () if self.pseudonym is None else (self.pseudonym, PREFIX + self.pseudonym[:DIGITS])

    @cached_property
    def name_needles(self) -> tuple[bytes, ...]:
        """His pseudonym as bytes, that of models (two numbers, one after the other) included."""
        if self.pseudonym is None:
            return ()
        numbers = b"".join(half.to_bytes(8, "little", signed=True) for half in halves_of(self.pseudonym))
        return (*(text.encode() for text in self.name_texts), numbers)

    def named_in(self, blob: bytes) -> bool:
        """Whether bytes hold his pseudonym."""
        return any(needle in blob for needle in self.name_needles)

    def in_bytes(self, blob: bytes) -> bool:
        """Whether bytes without structure tell of him."""
        return any(needle in blob for needle in self.needles)

    def owns_key(self, key: bytes) -> bool:
        """Whether a Redis key is his, or holds his id: entity keys of several join keys too."""
        if any(key.startswith(prefix) for prefix in self.feature_keys):
            return True
        if b"user_id" in key and any(value in key for value in self.entity_values):
            return True
        name = self.user_id.encode()
        ours = f"recsys:{{{self.project}}}:".encode()
        if key.startswith(ours):
            family, _, rest = key[len(ours) :].partition(b":")
            if family in (b"user", b"seen"):
                return rest == name
            if family == b"ads" and rest.startswith(b"shown:"):
                return rest.split(b":", 2)[2:] == [name]
        return (self.distinctive and name in key) or self.named_in(key)

    def in_document(self, value: Any) -> bool:
        """Whether JSON's values tell of him: as a ``user_id`` or a text's ``entity_id``, or anywhere if distinctive."""
        if isinstance(value, Mapping):
            if self._names(value.get("user_id")):
                return True
            if value.get("entity") == "user" and self._names(value.get("entity_id")):
                return True
            return any(self.in_document(part) for part in (*value.values(), *(value if self.distinctive else ())))
        if isinstance(value, list | tuple):
            return any(self.in_document(part) for part in value)
        return self.distinctive and isinstance(value, str) and self.user_id in value

    def in_text(self, content: bytes) -> bool:
        """The same for a value that may be JSON or anything."""
        if self.in_bytes(content):
            return True
        if content[:1] not in (b"{", b"["):
            return False
        try:
            return self.in_document(json.loads(content))
        except (ValueError, RecursionError):
            return False

    def _names(self, value: Any) -> bool:
        return (isinstance(value, str) or type(value) is int) and str(value) == self.user_id


def people_of(user_ids: Iterable[str], project: str, names: Pseudonyms | None) -> list[Person]:
    """Each of some users once, with his pseudonym if the key is known.

    Raises:
        InvalidInput: if one is no id.
    """
    return [
        Person(user_id, project, None if names is None else names.of(user_id)) for user_id in dict.fromkeys(user_ids)
    ]


def in_file(path: Path, needles: Collection[bytes]) -> bool:
    """Whether any of some byte strings is in a file."""
    longest = max(map(len, needles), default=0)
    if not longest:
        return False
    with path.open("rb") as file:
        tail = b""
        while part := file.read(_BLOCK):
            held = tail + part
            if any(needle in held for needle in needles):
                return True
            tail = held[-longest:]
    return False
