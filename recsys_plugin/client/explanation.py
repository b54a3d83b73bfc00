"""Why an item is on a page: the nearest reason in words, and what each group of features added to its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["REASON_TEXTS", "Contribution", "Explanation", "Reason", "english_date", "reason_text"]

#: What is said for each kind of reason, with the fields of :class:`Reason` and ``date`` to fill in. A shop that speaks
#: another language gives its own texts for the same kinds to :func:`reason_text`.
REASON_TEXTS: Mapping[str, str] = {
    "bought_often": "you bought it {times} times lately, last on {date}",
    "bought": "you bought it on {date}",
    "bought_before": "you bought it before",
    "in_cart": "you put it in your cart on {date}",
    "looked_at": "you looked at it on {date}",
    "goes_with_bought": "goes with {title}, bought {date}",
    "goes_with_bought_before": "goes with {title}, which you bought before",
    "goes_with_in_cart": "goes with {title}, which you put in your cart on {date}",
    "goes_with_looked_at": "goes with {title}, which you looked at on {date}",
    "like_bought": "like {title}, bought {date}",
    "like_bought_before": "like {title}, which you bought before",
    "like_in_cart": "like {title}, which you put in your cart on {date}",
    "like_looked_at": "like {title}, which you looked at on {date}",
    "popular": "popular in {category}",
}

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reason:
    """The nearest reason for an item, taken from what the request read of the user."""

    kind: str
    """One of :data:`REASON_TEXTS`."""
    text: str
    """In English."""
    item_id: str | None = None
    """The other item that the reason names; ``None`` if it names none."""
    title: str | None = None
    """That item's title."""
    moment: float | None = None
    """When the user bought, looked at or put in the cart what the reason is about, unix seconds; ``None`` where that
    is not known, since the feature store keeps a user's last acts only."""
    times: int | None = None
    """How often he bought it, as far back as his last acts go."""
    category: str | None = None
    """The category in which the item is popular."""
    rank: int | None = None
    """Its rank there by sales, 1 for the most."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one group of features added to a score."""

    group: str
    """Names the group, see :data:`~recsys_plugin.inference.explanation.FEATURE_GROUPS`."""
    words: str
    """The group in plain words."""
    value: float
    """In log-odds; negative where the group speaks against the item."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item has its score.

    ``base`` and all contributions add up to ``logit``, up to rounding in 32 bits (1e-4).
    """

    reason: Reason | None
    """``None`` where nothing that the user did, and no popularity, speaks for the item."""
    contributions: tuple[Contribution, ...]
    """The largest first, whichever its sign; empty for an item that the served version cannot explain."""
    base: float | None
    """Log-odds of an average item for a visitor of whom nothing is known; ``None`` as above."""
    logit: float | None
    """Log-odds of the model's score as a share of the highest there is, which with a single kind of event is the
    probability of that event; ``None`` as above. What rules or a search make of the score comes after it."""


def english_date(moment: float, now: float) -> str:
    """``3 May``, in UTC; with the year where it is not that of ``now``, both unix seconds."""
    day, today = (datetime.fromtimestamp(seconds, UTC) for seconds in (moment, now))
    said = f"{day.day} {_MONTHS[day.month - 1]}"
    return said if day.year == today.year else f"{said} {day.year}"


def reason_text(reason: Reason, date: str, texts: Mapping[str, str] = REASON_TEXTS) -> str:
    """A reason in words.

    Args:
        reason: what to say; its own text counts nothing.
        date: its moment as the reader writes it; empty for a reason without one.
        texts: what is said for each kind.
    """
    return texts[reason.kind].format(
        title=reason.title, date=date, times=reason.times, category=reason.category, rank=reason.rank
    )
