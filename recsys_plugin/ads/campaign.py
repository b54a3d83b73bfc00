"""A campaign: the items that an advertiser pays clicks for, how much and how often, and whom they are shown to.

Money is in whole micro-units of the shop's currency (1,000,000 make one unit), so that sums are exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from recsys_plugin.ads.pacing import DAY
from recsys_plugin.errors import InvalidInput
from recsys_plugin.identifiers import checked_ids

__all__ = [
    "MOST_ITEMS",
    "MOST_MICROS",
    "Campaign",
    "Targeting",
    "UserCondition",
    "checked_fields",
    "checked_whole",
]

#: Items of one campaign.
MOST_ITEMS = 100
#: The largest amount: a thousand million units, which Redis's scripts, whose numbers are doubles, still add exactly.
MOST_MICROS = 10**15
_MOST_CONDITIONS = 20
_MOST_CHARACTERS = 256

#: No colon, since it parts the fields under which a campaign is counted.
_CAMPAIGN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

#: What a user's feature is compared with.
_Scalar = str | int | bool


@dataclass(frozen=True, slots=True)
class UserCondition:
    """What a user's feature must be like: one of several values, or a number within bounds, both included.

    Of a list, any element may be. A user who lacks the feature, or whose value is too old, does not meet it.

    Raises:
        InvalidInput: if it is not a condition; the message names the field.
    """

    feature: str
    """Feast's ``view:feature``; it must be one that the model ``rank`` takes, since no others are read."""
    one_of: tuple[_Scalar, ...] | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.feature, str) or self.feature.count(":") != 1 or not all(self.feature.split(":")):
            raise InvalidInput(f"feature: {self.feature!r:.80} is not of the form view:feature")
        bounds = {name: getattr(self, name) for name in ("at_least", "at_most") if getattr(self, name) is not None}
        for name, bound in bounds.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not abs(bound) < float("inf"):
                raise InvalidInput(f"{name}: {bound!r:.80} is not a finite number")
        if (self.one_of is None) == (not bounds):
            raise InvalidInput("a condition has either one_of, or at_least or at_most or both")
        if self.one_of is not None:
            values = _checked_list("one_of", self.one_of)
            if not all(isinstance(value, _Scalar) for value in values):
                raise InvalidInput("one_of: values are texts, whole numbers, true or false")
            object.__setattr__(self, "one_of", values)
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise InvalidInput(f"at_least: {self.at_least} is more than at_most, {self.at_most}")

    def admits(self, values: Sequence[object] | None) -> bool:
        """Whether a user with these values of the feature meets it; ``None`` if he has none."""
        if values is None:
            return False
        if self.one_of is not None:
            # True is no 1 here.
            wanted = {(isinstance(each, bool), each) for each in self.one_of}
            return any((isinstance(value, bool), value) in wanted for value in values)
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return any(isinstance(value, int | float) and low <= value <= high for value in values)

    @classmethod
    def of(cls, value: object) -> UserCondition:
        """Read one from JSON values. Raises ``InvalidInput``."""
        return cls(**checked_fields(value, ("feature", "one_of", "at_least", "at_most"), required=("feature",)))


@dataclass(frozen=True, slots=True)
class Targeting:
    """Whom a campaign is shown to: everything named must hold; nothing named is everybody.

    Raises:
        InvalidInput: if it makes no sense; the message names the field.
    """

    context: Mapping[str, tuple[str, ...]] | None = None
    """Key → the values that the call may give for it, such as ``page`` or ``category``. A call without it does not
    match."""
    user: tuple[UserCondition, ...] = ()

    def __post_init__(self) -> None:
        if self.context is not None:
            if not isinstance(self.context, Mapping) or len(self.context) > _MOST_CONDITIONS:
                raise InvalidInput(f"context: it is an object of at most {_MOST_CONDITIONS} keys")
            checked = {}
            for key, values in self.context.items():
                checked[key] = _checked_list(f"context.{key}", values)
                if not all(isinstance(text, str) and len(text) <= _MOST_CHARACTERS for text in (key, *checked[key])):
                    raise InvalidInput(f"context.{key}: keys and values are texts of up to {_MOST_CHARACTERS} letters")
            object.__setattr__(self, "context", checked)
        if len(self.user) > _MOST_CONDITIONS:
            raise InvalidInput(f"user: {len(self.user)} conditions, at most {_MOST_CONDITIONS} are allowed")

    @classmethod
    def of(cls, value: object) -> Targeting:
        """Read it from JSON values. Raises ``InvalidInput``."""
        given = checked_fields(value, ("context", "user"))
        conditions = given.pop("user", ())
        if not isinstance(conditions, list | tuple):
            raise InvalidInput("user: it is a list of conditions")
        read = []
        for number, each in enumerate(conditions):
            try:
                read.append(UserCondition.of(each))
            except InvalidInput as error:
                raise InvalidInput(f"user[{number}]: {error}") from error
        return cls(user=tuple(read), **given)

    def admits(self, context: Mapping[str, str]) -> bool:
        """Whether what the call says about itself matches; the user's features are another matter."""
        return self.context is None or all(context.get(key) in values for key, values in self.context.items())

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is not set is left out."""
        document: dict[str, Any] = {}
        if self.context is not None:
            document["context"] = {key: list(values) for key, values in self.context.items()}
        if self.user:
            document["user"] = [
                {
                    name: list(value) if isinstance(value, tuple) else value
                    for name in ("feature", "one_of", "at_least", "at_most")
                    if (value := getattr(condition, name)) is not None
                }
                for condition in self.user
            ]
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One campaign.

    Raises:
        InvalidInput: if a value makes no sense; the message names the field.
    """

    campaign_id: str
    """Letters, digits, ``_``, ``.`` and ``-``, at most 64."""
    items: tuple[str, ...]
    """Ids of the items that are advertised, at most :data:`MOST_ITEMS`; each is a creative of its own."""
    bid_micros: int
    """The most that a click may cost."""
    budget_per_day_micros: int
    """The most that the clicks of a day may cost together; at least one bid."""
    budget_micros: int | None = None
    """The most that all clicks may cost together; ``None`` is no limit."""
    start: str | None = None
    """ISO 8601; without a zone it is UTC. ``None``: it has begun."""
    end: str | None = None
    """From this moment on it is over; ``None``: never."""
    targeting: Targeting = field(default_factory=Targeting)
    most_per_user_per_day: int | None = None
    """Frequency cap: times that one user is shown the campaign in a day; ``None`` is no limit."""
    paused: bool = False
    starts_at: float = field(init=False, repr=False, compare=False)
    """``start`` in unix seconds, minus infinity if there is none."""
    ends_at: float = field(init=False, repr=False, compare=False)
    """``end`` in unix seconds, infinity if there is none."""

    def __post_init__(self) -> None:
        if not isinstance(self.campaign_id, str) or not _CAMPAIGN_ID.fullmatch(self.campaign_id):
            raise InvalidInput(
                f"campaign_id: {self.campaign_id!r:.80} is not 1 to 64 letters, digits, _, . and -, beginning with a "
                "letter or digit"
            )
        items = checked_ids(self.items, "items", most=MOST_ITEMS)
        if not items or len(set(items)) != len(items):
            raise InvalidInput("items: an item comes twice" if items else "items: there is none")
        object.__setattr__(self, "items", tuple(items))
        checked_whole("bid_micros", self.bid_micros, 1, MOST_MICROS)
        for name in ("budget_per_day_micros", "budget_micros"):
            budget = getattr(self, name)
            if name == "budget_micros" and budget is None:
                continue
            checked_whole(name, budget, 1, MOST_MICROS)
            if budget < self.bid_micros:
                raise InvalidInput(f"{name}: {budget} does not pay one bid of {self.bid_micros}")
        if self.most_per_user_per_day is not None:
            checked_whole("most_per_user_per_day", self.most_per_user_per_day, 1, 10**6)
        if not isinstance(self.paused, bool):
            raise InvalidInput(f"paused: {self.paused!r:.80} is neither true nor false")
        for name, moment, never in (("start", "starts_at", -math.inf), ("end", "ends_at", math.inf)):
            text = getattr(self, name)
            object.__setattr__(self, moment, never if text is None else _unix_seconds(name, text))
        if self.starts_at >= self.ends_at:
            raise InvalidInput(f"end: {self.end} is not after start, {self.start}")

    @classmethod
    def of(cls, value: object) -> Campaign:
        """Read one from JSON values.

        Raises:
            InvalidInput: if it is none; the message names the field.
        """
        given = checked_fields(value, _NAMES, required=("campaign_id", "items", "bid_micros", "budget_per_day_micros"))
        if "targeting" in given:
            try:
                given["targeting"] = Targeting.of(given["targeting"])
            except InvalidInput as error:
                raise InvalidInput(f"targeting: {error}") from error
        return cls(**given)

    def budget_of_day(self, spent_before: int) -> int:
        """The most that a day's clicks may cost, micro-units, after so much was spent on the days before."""
        if self.budget_micros is None:
            return self.budget_per_day_micros
        return min(self.budget_per_day_micros, self.budget_micros - spent_before)

    def window(self, day_begins: float) -> tuple[float, float]:
        """The seconds of a day between which it runs, of a day that begins at a moment (unix seconds)."""
        return max(0.0, self.starts_at - day_begins), min(DAY, self.ends_at - day_begins)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is at its default is left out."""
        document = {name: getattr(self, name) for name in _NAMES if name not in ("items", "targeting")}
        document = {name: value for name, value in document.items() if value not in (None, False)}
        targeting = self.targeting.to_dict()
        return {**document, "items": list(self.items), **({"targeting": targeting} if targeting else {})}


_NAMES = tuple(each.name for each in fields(Campaign) if each.init)


def _unix_seconds(name: str, text: object) -> float:
    """A moment in ISO 8601 as unix seconds; without a zone it is UTC.

    Raises:
        InvalidInput: if it is none.
    """
    try:
        moment = datetime.fromisoformat(text)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{name}: {text!r:.80} is not an ISO 8601 time such as 2026-01-31T12:00:00Z") from error
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def checked_whole(name: str, value: object, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``. Raises ``InvalidInput`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInput(f"{name}: {value!r:.80} is not a whole number from {least} to {most}")
    return value


def checked_fields(value: object, names: tuple[str, ...], *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a JSON object: all that are required, and none that is unknown.

    Raises:
        InvalidInput: naming what is missing or too much.
    """
    if not isinstance(value, dict):
        raise InvalidInput(f"{type(value).__name__} {value!r:.60}, expected an object")
    if unknown := [str(name) for name in value if name not in names]:
        raise InvalidInput(f"{unknown[0]!r:.80} is not a field; there are {', '.join(names)}")
    if missing := [name for name in required if name not in value]:
        raise InvalidInput(f"{missing[0]}: it is missing")
    return dict(value)


def _checked_list(name: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= 1000:
        raise InvalidInput(f"{name}: it is a list of 1 to 1000 values")
    return tuple(values)
