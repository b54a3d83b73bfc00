"""Whole numbers that came as text: what has more digits than a number of 64 bits is none.

Python refuses to read more than 4,300 digits with an error of its own (``sys.set_int_max_str_digits``); what is sent to
us must end in an error of ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from recsys_plugin.errors import StoreUnavailable

__all__ = ["stored_number", "stored_numbers", "whole_number"]

#: Fewer than the 64th bit needs.
_MOST_DIGITS = 18


def whole_number(text: str | bytes) -> int | None:
    """The number of 1 to 18 digits that a text is; ``None`` for any other."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def stored_number(value: bytes | None, what: str) -> int:
    """A counter in Redis, 0 where there is none.

    Args:
        what: names it in the message.

    Raises:
        StoreUnavailable: if what is there is no number.
    """
    return stored_numbers((value,), what)[0]


def stored_numbers(values: Iterable[bytes | None], what: str) -> list[int]:
    """:func:`stored_number` of many, of which an auction reads thousands."""
    try:
        return [int(value or 0) for value in values]
    except ValueError:  # which would show all of the value
        raise StoreUnavailable(f"{what}: what is in Redis is no number") from None
