"""The caller's arguments, checked at the door: what is wrong is said with the argument's name."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Container, Iterable

import numpy as np

from recsys_plugin.errors import InvalidInput

__all__ = [
    "MOST_CANDIDATES",
    "MOST_ID_BYTES",
    "MOST_QUERY_CHARACTERS",
    "MOST_USERS",
    "checked_candidates",
    "checked_id",
    "checked_ids",
    "checked_interval",
    "checked_k",
    "checked_query",
    "checked_timeout",
]

MOST_CANDIDATES = 10_000
MOST_USERS = 10_000
MOST_ID_BYTES = 256
#: A longer query is refused; how much of a shorter one counts is the tokenizer's business.
MOST_QUERY_CHARACTERS = 10_000


#: Ids that need no closer look: printable ASCII of no more than MOST_ID_BYTES. Nearly all are, and a call has hundreds.
_PLAIN_ID = re.compile(rf"[ -~]{{1,{MOST_ID_BYTES}}}")


def checked_id(value: object, name: str) -> str:
    """An id as text: a string as it is, a whole number in decimal.

    Raises:
        InvalidInput: for any other type, for an empty or overlong id, and for control characters.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str):
        raise InvalidInput(f"{name}: an id is a string or a whole number, not {type(value).__name__} ({value!r:.60})")
    if not value:
        raise InvalidInput(f"{name}: an id must not be empty")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise InvalidInput(f"{name}: {value!r:.80} holds a control character")
    if len(value.encode()) > MOST_ID_BYTES:
        raise InvalidInput(f"{name}: {value!r:.40} is longer than {MOST_ID_BYTES} bytes")
    return value


def checked_ids(values: Iterable[object], name: str, *, most: int, known: Container[object] = frozenset()) -> list[str]:
    """Several ids, in order, duplicates kept; those that are known are right already.

    Raises:
        InvalidInput: if it is one id instead of several, holds more than ``most``, or holds a wrong one.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidInput(f"{name}: expected a list of ids, not {type(values).__name__} ({values!r:.60})")
    ids = [
        value
        if type(value) is str and (value in known or _PLAIN_ID.fullmatch(value))
        else checked_id(value, f"{name}[{number}]")
        for number, value in enumerate(values)
    ]
    if len(ids) > most:
        raise InvalidInput(f"{name}: {len(ids)} ids, at most {most} are allowed in one call")
    return ids


def checked_k(value: object) -> int:
    """How many items are wanted: a whole number of 0 or more.

    Raises:
        InvalidInput: for anything else.
    """
    return _whole_number(value, "k", least=0)


def checked_candidates(value: object) -> int:
    """How many candidates to score: a whole number from 1 to :data:`MOST_CANDIDATES`.

    Raises:
        InvalidInput: for anything else.
    """
    number = _whole_number(value, "candidates", least=1)
    if number > MOST_CANDIDATES:
        raise InvalidInput(f"candidates: {number} is more than {MOST_CANDIDATES}")
    return number


def checked_query(value: object) -> str:
    """A search query with something in it.

    Raises:
        InvalidInput: if it is not text, blank, too long, or not encodable as UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"query: expected text, not {type(value).__name__}")
    if not value.strip():
        raise InvalidInput("query: must not be empty")
    if len(value) > MOST_QUERY_CHARACTERS:
        raise InvalidInput(f"query: {len(value)} characters, at most {MOST_QUERY_CHARACTERS} are allowed")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"query: not valid Unicode: {error.reason}") from error
    return value


def checked_timeout(value: object) -> float:
    """How long a call may take: a finite number of seconds above 0.

    Raises:
        InvalidInput: for anything else.
    """
    return _seconds(value, "timeout")


def checked_interval(value: object) -> float | None:
    """How often the client looks for another version: a finite number of seconds above 0, or ``None`` for never.

    Raises:
        InvalidInput: for anything else.
    """
    return None if value is None else _seconds(value, "refresh_every")


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{name}: {value!r:.60} is not a number of seconds above 0")
    return float(value)


def _whole_number(value: object, name: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidInput(f"{name}: {value!r:.60} is not a whole number")
    if value < least:
        raise InvalidInput(f"{name}: {value} is less than {least}")
    return int(value)
