"""Ids of users, items and events: what is one, checked at every door."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable
from itertools import islice

import numpy as np

from recsys_plugin.errors import InvalidInput
from recsys_plugin.limits import MOST_ID_BYTES

__all__ = ["checked_id", "checked_ids"]

#: Ids that need no closer look: printable ASCII of no more than MOST_ID_BYTES. Nearly all are, and a call has hundreds.
_PLAIN_ID = re.compile(rf"[ -~]{{1,{MOST_ID_BYTES}}}")


def checked_id(value: object, name: str) -> str:
    """An id as text: a string as it is, a whole number in decimal.

    Raises:
        InvalidInput: for any other type, for an empty or overlong id, and for control characters.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        number = int(value)
        # Looked at first: to write out a number of very many digits is refused by Python itself.
        text = str(number) if number.bit_length() < 4 * MOST_ID_BYTES else ""
        if not 0 < len(text) <= MOST_ID_BYTES:
            raise InvalidInput(f"{name}: a whole number of more than {MOST_ID_BYTES} digits is no id")
        return text
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
        for number, value in enumerate(islice(values, most + 1))  # they may come without an end
    ]
    if len(ids) > most:
        raise InvalidInput(f"{name}: more than {most} ids; at most {most} are allowed in one call")
    return ids
