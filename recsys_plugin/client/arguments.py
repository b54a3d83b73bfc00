"""The caller's arguments, checked at the door: what is wrong is said with the argument's name."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np

from recsys_plugin.errors import InvalidInput
from recsys_plugin.identifiers import checked_ids
from recsys_plugin.limits import MOST_CANDIDATES, MOST_CONTEXT_KEYS, MOST_QUERY_CHARACTERS

__all__ = [
    "checked_call_context",
    "checked_candidates",
    "checked_flag",
    "checked_interval",
    "checked_k",
    "checked_per_category",
    "checked_query",
    "checked_slots",
    "checked_stock",
]

#: Items of one page; no catalogue has more.
_MOST_WANTED = 2**31 - 1


def checked_k(value: object, name: str = "k") -> int:
    """How many items are wanted: a whole number of 0 or more.

    Raises:
        InvalidInput: for anything else.
    """
    # More than any catalogue has; a larger number would not fit the tensor that carries it.
    return min(_whole_number(value, name, least=0), _MOST_WANTED)


def checked_per_category(value: object) -> int:
    """How many items of one category a page may hold: a whole number of 1 or more.

    Raises:
        InvalidInput: for anything else.
    """
    return _whole_number(value, "per_category", least=1)


def checked_slots(value: object) -> int:
    """How many ads are wanted: a whole number of 0 or more.

    Raises:
        InvalidInput: for anything else.
    """
    return _whole_number(value, "slots", least=0)


def checked_call_context(value: object) -> dict[str, str]:
    """What a call says about itself, for targeting: texts by name.

    Raises:
        InvalidInput: for anything else, and for more than :data:`MOST_CONTEXT_KEYS`.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"context: expected texts by name, not {type(value).__name__} ({value!r:.60})")
    if len(value) > MOST_CONTEXT_KEYS:
        raise InvalidInput(f"context: {len(value)} keys, at most {MOST_CONTEXT_KEYS} are allowed")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise InvalidInput(f"context: {key!r:.60} is {text!r:.60}; keys and values are texts")
    return dict(value)


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


def checked_stock(value: object) -> dict[str, int]:
    """Item id → units, for at most :data:`MOST_CANDIDATES` items.

    Raises:
        InvalidInput: for anything that is no id, or no whole number from 0 to 2**62; it names the item.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"stock: expected item ids and units, not {type(value).__name__} ({value!r:.60})")
    item_ids = checked_ids(list(value), "stock", most=MOST_CANDIDATES)
    stock = dict(zip(item_ids, value.values(), strict=True))
    for item_id, units in stock.items():
        if isinstance(units, bool) or not isinstance(units, int | np.integer) or not 0 <= units <= 2**62:
            raise InvalidInput(f"stock: {units!r:.60} of item {item_id!r} is not a whole number of 0 or more")
        stock[item_id] = int(units)
    return stock


def checked_flag(value: object, name: str) -> bool:
    """True or false.

    Raises:
        InvalidInput: for anything else.
    """
    if not isinstance(value, bool):
        raise InvalidInput(f"{name}: {value!r:.60} is not true or false")
    return value


def checked_interval(value: object) -> float | None:
    """How often the client looks for another version: a finite number of seconds above 0, or ``None`` for never.

    Raises:
        InvalidInput: for anything else.
    """
    return None if value is None else _seconds(value, "refresh_every")


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise InvalidInput(f"{name}: {value!r:.60} is not a number of seconds above 0")
    return float(value)


def _whole_number(value: object, name: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidInput(f"{name}: {value!r:.60} is not a whole number")
    if value < least:
        raise InvalidInput(f"{name}: {value} is less than {least}")
    return int(value)
