"""Loading, pausing and looking after campaigns, for people and for programs that work like them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.ads.campaign import Campaign
from recsys_plugin.ads.pacing import planned_share
from recsys_plugin.ads.store import MILLION, change_book, read_book
from recsys_plugin.digits import stored_number, stored_numbers
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.command_runner import CommandRunner

__all__ = ["CampaignStatus", "Campaigns"]

_TIMEOUT = 5.0
#: Somebody else may change the campaigns just then; more often than this it is no coincidence.
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """How a campaign does today. Money in micro-units."""

    campaign_id: str
    state: str
    """``running``, ``paused``, ``not yet``, ``over``, ``spent today`` or ``spent``."""
    spent_today: int
    budget_per_day: int
    planned_today: float
    """What pacing would have spent until now; all that may be spent today where nothing is paced."""
    spent: int
    """In all."""
    budget: int | None
    shown_today: int
    clicks_today: int
    free_today: int
    """What clicks would have cost today beyond the budget."""
    click_rate_today: float | None
    """``None`` if it was not shown."""
    calibration: float | None
    """Clicks for each click that the model expected, ever; ``None`` if none was expected."""


class Campaigns(CommandRunner):
    """The campaigns of a project.

    Args:
        redis_url: see :mod:`recsys_plugin.features.connection`. project: the Feast project.
        clock: unix seconds.

    Raises, from every method: ``StoreUnavailable`` and ``DeadlineExceeded`` for Redis; the first also if what is there
    is no document of campaigns.
    """

    def __init__(self, redis_url: str, project: str = "recsys", *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(redis_url, timeout=_TIMEOUT)
        self._keys, self._clock = EventKeys(project), clock

    def read(self) -> CampaignBook:
        """The campaigns as they are; none if none were ever loaded."""
        return self.run(read_book(self._keys))[1]

    def load(self, book: CampaignBook) -> None:
        """Put these campaigns in place of all others, from the next request on.

        What campaigns spent, showed and were clicked stays counted under their ids.
        """
        self._change(lambda _: book, reads=False)

    def set_paused(self, campaign_id: str, paused: bool) -> CampaignBook:
        """Pause a campaign or let it go on, from the next request on.

        Raises:
            InvalidInput: if there is none of this id.
        """
        return self._change(lambda book: book.with_paused(campaign_id, paused))

    def status(self) -> list[CampaignStatus]:
        """How each campaign does today, in the order of the document."""
        book, keys = self.read(), self._keys
        if not book.campaigns:
            return []
        now = self._clock()
        day, second = book.settings.day(now)
        ids = [campaign.campaign_id for campaign in book.campaigns]
        today = ("HMGET", keys.ads_day(day))
        replies = self.perform(
            (
                *((*today, *(f"{name}:{campaign_id}" for campaign_id in ids)) for name in _TODAY),
                ("HMGET", keys.ads_spent, *ids),
                *(
                    ("HMGET", keys.ads_clicks, *(f"{name}:{campaign_id}" for campaign_id in ids))
                    for name in ("clicks", "expected")
                ),
            )
        )
        counts = zip(*(stored_numbers(reply, "counters of campaigns") for reply in replies), strict=True)
        return [
            _status(book, campaign, day, second, now, found)
            for campaign, found in zip(book.campaigns, counts, strict=True)
        ]

    def _change(self, change: Callable[[CampaignBook], CampaignBook], *, reads: bool = True) -> CampaignBook:
        for _ in range(_ATTEMPTS):
            if reads:
                revision, book = self.run(read_book(self._keys))
            else:  # what is there need not make sense: it goes
                (stored,) = self.perform((("GET", self._keys.ads_revision),))
                revision = stored_number(stored, "the campaigns' revision")
                book = CampaignBook()
            changed = change(book)
            if self.run(change_book(self._keys, revision, changed)):
                return changed
        raise ConfigurationError(f"the campaigns were changed by somebody else {_ATTEMPTS} times in a row; try again")


#: What is counted of a campaign on a day.
_TODAY = ("spent", "shown", "clicks", "free")


def _status(
    book: CampaignBook, campaign: Campaign, day: int, second: float, now: float, counts: tuple[int, ...]
) -> CampaignStatus:
    spent_today, shown, clicks_today, free, spent, clicks, expected = counts
    budget, reserve = campaign.budget_of_day(spent - spent_today), book.settings.reserve_micros
    share = 1.0
    if book.settings.pace:
        share = planned_share(second, campaign.window(book.settings.day_begins(day)), book.settings.forecast)
    if campaign.paused:
        state = "paused"
    elif now < campaign.starts_at:
        state = "not yet"
    elif now >= campaign.ends_at:
        state = "over"
    elif campaign.budget_micros is not None and campaign.budget_micros - spent < reserve:
        state = "spent"
    elif budget - spent_today < reserve:
        state = "spent today"
    else:
        state = "running"
    return CampaignStatus(
        campaign.campaign_id,
        state,
        spent_today,
        campaign.budget_per_day_micros,
        max(0, budget) * share,
        spent,
        campaign.budget_micros,
        shown,
        clicks_today,
        free,
        clicks_today / shown if shown else None,
        clicks * MILLION / expected if expected else None,
    )
