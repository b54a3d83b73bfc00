"""The campaigns of a shop with the rules of their auction: one JSON document, checked where it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from recsys_plugin.ads.campaign import MOST_MICROS, Campaign, checked_fields, checked_whole
from recsys_plugin.ads.pacing import DAY, TrafficForecast
from recsys_plugin.errors import InvalidInput
from recsys_plugin.limits import MOST_ADVERTISED, MOST_CAMPAIGNS, MOST_DOCUMENT_BYTES

__all__ = ["FORMAT", "AuctionSettings", "CampaignBook"]

#: The layout of the document; one of another number is refused, since it would be misread.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class AuctionSettings:
    """The rules of the auction, alike for all campaigns.

    Raises:
        InvalidInput: if a value makes no sense; the message names the field.
    """

    reserve_micros: int = 1
    """The least that a click costs; who bids less does not take part."""
    quality_floor: float = 0.0
    """The least calibrated probability of a click; what is below is not shown, whatever it bids."""
    explore: bool = True
    """Whether a creative with few clicks may be given a better (or worse) chance than it is thought to have."""
    prior_clicks: float = 4.0
    """How many clicks it takes until what was clicked counts as much as what the model says."""
    pace: bool = True
    """Whether a day's budget is spread over the day."""
    ahead_minutes: float = 15.0
    """How far spend may run ahead of the plan; also how quickly it is slowed down."""
    traffic: tuple[float, ...] = (1.0,) * 24
    """How the day's requests are spread over its hours, in any unit: what pacing plans with."""
    utc_offset_minutes: int = 0
    """When a day begins for budgets and frequency caps: 60 is an hour before midnight UTC."""
    click_window_minutes: int = 1_440
    """How long after an ad was served its click is charged."""

    def __post_init__(self) -> None:
        checked_whole("reserve_micros", self.reserve_micros, 1, MOST_MICROS)
        checked_whole("utc_offset_minutes", self.utc_offset_minutes, -1_440, 1_440)
        checked_whole("click_window_minutes", self.click_window_minutes, 1, 43_200)
        _check_number("quality_floor", self.quality_floor, 0.0, 1.0)
        _check_number("prior_clicks", self.prior_clicks, 0.1, 1e6)
        _check_number("ahead_minutes", self.ahead_minutes, 0.1, 1_440.0)
        for name in ("explore", "pace"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"{name}: {getattr(self, name)!r:.80} is neither true nor false")
        if not isinstance(self.traffic, list | tuple) or len(self.traffic) != 24:
            raise InvalidInput("traffic: it is a list of 24 numbers, one for each hour of the day")
        for hour, weight in enumerate(self.traffic):
            _check_number(f"traffic[{hour}]", weight, 0.0, 1e12)
        if not sum(self.traffic) > 0:
            raise InvalidInput("traffic: one hour at least must be above 0")
        object.__setattr__(self, "traffic", tuple(map(float, self.traffic)))

    @cached_property
    def forecast(self) -> TrafficForecast:
        """``traffic``, ready to plan with."""
        return TrafficForecast(self.traffic)

    def day(self, now: float) -> tuple[int, float]:
        """The day of a moment (unix seconds), counted from 1970, and the seconds since it began."""
        number, second = divmod(now + 60 * self.utc_offset_minutes, DAY)
        return int(number), second

    def day_begins(self, day: int) -> float:
        """The moment, unix seconds, at which a day begins."""
        return day * DAY - 60 * self.utc_offset_minutes


@dataclass(frozen=True)
class CampaignBook:
    """All campaigns and the rules of their auction.

    Raises:
        InvalidInput: if two campaigns have one id, or there are too many.
    """

    campaigns: tuple[Campaign, ...] = ()
    settings: AuctionSettings = field(default_factory=AuctionSettings)

    def __post_init__(self) -> None:
        if len(self.campaigns) > MOST_CAMPAIGNS:
            raise InvalidInput(f"campaigns: {len(self.campaigns)}, at most {MOST_CAMPAIGNS} are allowed")
        advertised = sum(len(campaign.items) for campaign in self.campaigns)
        if advertised > MOST_ADVERTISED:
            raise InvalidInput(f"campaigns: {advertised} items in all, at most {MOST_ADVERTISED} are allowed")
        if len(self.by_id) != len(self.campaigns):
            ids = [campaign.campaign_id for campaign in self.campaigns]
            twice = next(each for number, each in enumerate(ids) if each in ids[:number])
            raise InvalidInput(f"campaigns: campaign_id {twice!r} comes twice")
        for campaign in self.campaigns:
            if campaign.bid_micros < self.settings.reserve_micros:
                raise InvalidInput(
                    f"campaign {campaign.campaign_id!r}: bid_micros: {campaign.bid_micros} is below the reserve of "
                    f"{self.settings.reserve_micros}, so it would never be shown"
                )

    @cached_property
    def by_id(self) -> Mapping[str, Campaign]:
        """Campaign id → campaign."""
        return {campaign.campaign_id: campaign for campaign in self.campaigns}

    def with_paused(self, campaign_id: str, paused: bool) -> CampaignBook:
        """The book with one campaign paused or going on.

        Raises:
            InvalidInput: if there is no such campaign.
        """
        if campaign_id not in self.by_id:
            raise InvalidInput(
                f"there is no campaign {campaign_id!r:.80}; `recsys ads list` shows those that there are"
            )
        return replace(
            self,
            campaigns=tuple(
                replace(campaign, paused=paused) if campaign.campaign_id == campaign_id else campaign
                for campaign in self.campaigns
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON values."""
        settings = {**asdict(self.settings), "traffic": list(self.settings.traffic)}
        campaigns = [campaign.to_dict() for campaign in self.campaigns]
        return {"format": FORMAT, "settings": settings, "campaigns": campaigns}

    def to_json(self) -> str:
        """The document; equal books give equal text."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> CampaignBook:
        """Read a document.

        Raises:
            InvalidInput: if it is none; the message has a line for each campaign that is wrong, naming the field.
        """
        if len(text) > MOST_DOCUMENT_BYTES:
            raise InvalidInput(f"campaigns: more than {MOST_DOCUMENT_BYTES} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"not JSON: {error}") from error
        given = checked_fields(document, ("format", "settings", "campaigns"), required=("format", "campaigns"))
        if given["format"] != FORMAT:
            raise InvalidInput(f"format: {given['format']!r:.40} is not {FORMAT}")
        if not isinstance(given["campaigns"], list):
            raise InvalidInput("campaigns: it is a list of campaigns")
        wrong: list[str] = []
        settings = AuctionSettings()
        try:
            settings = AuctionSettings(**checked_fields(given.get("settings", {}), _SETTINGS))
        except InvalidInput as error:
            wrong.append(f"settings: {error}")
        campaigns = []
        for number, each in enumerate(given["campaigns"]):
            try:
                campaigns.append(Campaign.of(each))
            except InvalidInput as error:
                wrong.append(f"campaigns[{number}]{_named(each)}: {error}")
        if wrong:
            raise InvalidInput("\n".join(wrong))
        book = cls(tuple(campaigns), settings)
        try:
            book.to_json().encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"not valid Unicode: {error.reason}") from error
        return book


_SETTINGS = tuple(AuctionSettings.__dataclass_fields__)


def _named(campaign: Any) -> str:
    found = campaign.get("campaign_id") if isinstance(campaign, dict) else None
    return f" {found!r:.80}" if isinstance(found, str) else ""


def _check_number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidInput(f"{name}: {value!r:.80} is not a number from {least:g} to {most:g}")
