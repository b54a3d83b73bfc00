"""What Redis holds of campaigns, and the three scripts that change it.

Everything that must not happen twice, or only within a budget, happens in a script: Redis runs one at a time, so what
it has looked at is still so when it acts. All keys of a project lie in one slot of a cluster.

*Serving* an ad notes it with its price, unless its campaign was paused, ran out, or reached the user's cap in the
meantime. A *click* is charged once, to the day that it happens on, and never more than is left of the budgets: so
spend cannot exceed them, whatever number of servers serve. Clicks on ads that were shown before a budget ran out and
clicked afterwards are free; pacing, which slows a campaign down towards its budget, keeps them few.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.digits import stored_number, stored_numbers
from recsys_plugin.errors import InvalidInput, StoreUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.commands import Commands

__all__ = ["AdClick", "Served", "State", "StateQuery", "change_book", "charge_click", "note_served", "read_book"]

#: Seconds that a day's counters are kept.
DAY_KEPT = 40 * 86_400
#: Seconds that a user's counters of a day are kept: no two servers' clocks are a day apart.
SHOWN_KEPT = 2 * 86_400
#: Probabilities are added up in millionths, as whole numbers.
MILLION = 1_000_000

_CHANGE = """
local revision = redis.call('GET', KEYS[2]) or '0'
if revision ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('INCR', KEYS[2])
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
  if string.sub(field, 1, 5) == 'runs:' then redis.call('HSET', KEYS[3], field, '0') end
end
for at = 3, #ARGV, 4 do
  local id = ARGV[at]
  redis.call('HSET', KEYS[3], 'day:' .. id, ARGV[at + 1], 'all:' .. id, ARGV[at + 2], 'runs:' .. id, ARGV[at + 3])
end
return 1
"""

#: Three times to keep things, then for each ad: campaign, item, price, expected clicks in millionths, cap or 0.
_SERVE = """
local limits, spent, day, clicks, shown = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local taken = {}
for number = 1, (#ARGV - 3) / 5 do
  local at = 3 + (number - 1) * 5
  local id, item, price, expected, cap = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], tonumber(ARGV[at + 5])
  local limit = redis.call('HMGET', limits, 'runs:' .. id, 'day:' .. id, 'all:' .. id)
  local today = tonumber(redis.call('HGET', day, 'spent:' .. id) or '0')
  local all = tonumber(redis.call('HGET', spent, id) or '0')
  local runs = limit[1] == '1' and today < tonumber(limit[2]) and (limit[3] == '' or all < tonumber(limit[3]))
  if runs and cap > 0 then runs = tonumber(redis.call('HGET', shown, id) or '0') < cap end
  if runs then
    runs = redis.call('SET', KEYS[5 + number], price .. ':' .. id .. ':' .. item, 'EX', ARGV[3], 'NX')
  end
  if runs then
    if cap > 0 then
      redis.call('HINCRBY', shown, id, 1)
      redis.call('EXPIRE', shown, ARGV[2])
    end
    redis.call('HINCRBY', day, 'shown:' .. id, 1)
    redis.call('EXPIRE', day, ARGV[1])
    redis.call('HINCRBY', clicks, 'expected', expected)
    redis.call('HINCRBY', clicks, 'expected:' .. id, expected)
    redis.call('HINCRBY', clicks, 'expected:' .. id .. ':' .. item, expected)
    taken[number] = 1
  else
    taken[number] = 0
  end
end
return taken
"""

_CLICK = """
local noted = redis.call('GET', KEYS[1])
if not noted then return {'unknown', '0', '', '', '0'} end
local charged, price, id, item = string.match(noted, '^c(%d+):(%d+):([^:]*):(.*)$')
if charged then return {'duplicate', charged, id, item, price} end
price, id, item = string.match(noted, '^(%d+):([^:]*):(.*)$')
local limit = redis.call('HMGET', KEYS[2], 'day:' .. id, 'all:' .. id)
local today = tonumber(redis.call('HGET', KEYS[4], 'spent:' .. id) or '0')
local all = tonumber(redis.call('HGET', KEYS[3], id) or '0')
local left = tonumber(limit[1] or '0') - today
if limit[2] and limit[2] ~= '' then left = math.min(left, tonumber(limit[2]) - all) end
local charge = string.format('%.0f', math.max(0, math.min(tonumber(price), left)))
redis.call('HINCRBY', KEYS[4], 'spent:' .. id, charge)
redis.call('HINCRBY', KEYS[4], 'clicks:' .. id, 1)
if charge ~= price then
  redis.call('HINCRBY', KEYS[4], 'free:' .. id, string.format('%.0f', tonumber(price) - tonumber(charge)))
end
redis.call('EXPIRE', KEYS[4], ARGV[1])
redis.call('HINCRBY', KEYS[3], id, charge)
redis.call('HINCRBY', KEYS[5], 'clicks', 1)
redis.call('HINCRBY', KEYS[5], 'clicks:' .. id, 1)
redis.call('HINCRBY', KEYS[5], 'clicks:' .. id .. ':' .. item, 1)
redis.call('SET', KEYS[1], 'c' .. charge .. ':' .. noted, 'KEEPTTL')
return {'charged', charge, id, item, price}
"""


@dataclass(frozen=True, slots=True)
class AdClick:
    """What became of a click on an ad.

    ``charged``: it counts, and the campaign was charged for it. ``duplicate``: it was counted before, and was charged
    for then. ``unknown``: no ad of this id was shown within the time that clicks are charged for.
    """

    impression_id: str
    state: Literal["charged", "duplicate", "unknown"]
    charged_micros: int = 0
    """What the campaign was charged for this ad; less than the price where its budget was used up."""
    price_micros: int = 0
    campaign_id: str | None = None
    item_id: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """An ad to be noted as shown."""

    impression_id: str
    campaign_id: str
    item_id: str
    price_micros: int
    expected: float
    """The probability of a click by the model, before calibration."""
    most_per_user_per_day: int | None


@dataclass(frozen=True, slots=True)
class StateQuery:
    """Which counters a request reads, as plain commands: they can be sent along with other reads.

    Attributes:
        campaigns: id → the items of which counts are read.
        day: counted from 1970.
    """

    campaigns: Mapping[str, Sequence[str]]
    day: int
    user_id: str

    def commands(self, keys: EventKeys) -> tuple[tuple[Any, ...], ...]:
        """What to send; the first asks for the revision of the campaigns."""
        revision: tuple[Any, ...] = ("GET", keys.ads_revision)
        if not self.campaigns:
            return (revision,)
        ids = tuple(self.campaigns)
        counted = ["", *(f":{campaign_id}" for campaign_id in ids)]
        counted += [f":{campaign_id}:{item}" for campaign_id, items in self.campaigns.items() for item in items]
        return (
            revision,
            ("HMGET", keys.ads_day(self.day), *(f"spent:{campaign_id}" for campaign_id in ids)),
            ("HMGET", keys.ads_spent, *ids),
            ("HMGET", keys.ads_shown(self.day, self.user_id), *ids),
            ("HMGET", keys.ads_clicks, *(f"clicks{name}" for name in counted)),
            ("HMGET", keys.ads_clicks, *(f"expected{name}" for name in counted)),
        )

    def parse(self, replies: Sequence[Any]) -> State:
        """What the commands were answered with."""
        revision = stored_number(replies[0], "the campaigns' revision")
        if not self.campaigns:
            return State(revision)
        today, spent, shown, clicks, expected = (_numbers(reply) for reply in replies[1:])
        ids = tuple(self.campaigns)
        return State(
            revision,
            dict(zip(ids, today, strict=True)),
            dict(zip(ids, spent, strict=True)),
            dict(zip(ids, shown, strict=True)),
            clicks,
            [each / MILLION for each in expected],
        )


@dataclass(frozen=True, slots=True)
class State:
    """What the counters said.

    Attributes:
        revision: of the campaigns' document.
        today, spent: campaign → micro-units spent today, and in all.
        shown: campaign → times that the user was shown it today.
        clicks, expected: clicks that there were, and that the model expected: of all ads, then of each campaign of the
            query, then of each item of each campaign.
    """

    revision: int
    today: Mapping[str, int] | None = None
    spent: Mapping[str, int] | None = None
    shown: Mapping[str, int] | None = None
    clicks: Sequence[int] = ()
    expected: Sequence[float] = ()


def read_book(keys: EventKeys) -> Generator[Commands, list[Any], tuple[int, CampaignBook]]:
    """The campaigns and their revision, 0 if none were ever loaded.

    Raises:
        StoreUnavailable: if what is there is no document of campaigns.
    """
    ((revision, text),) = yield Commands((("MGET", keys.ads_revision, keys.ads),))
    try:
        book = CampaignBook() if text is None else CampaignBook.from_json(text)
    except InvalidInput as error:
        raise StoreUnavailable(f"Redis key {keys.ads}: {error}\nRun `recsys ads load` again.") from error
    return stored_number(revision, f"key {keys.ads_revision}"), book


def change_book(keys: EventKeys, revision: int, book: CampaignBook) -> Generator[Commands, list[Any], bool]:
    """Write the campaigns, if nobody else did since ``revision`` was read; whether they were written."""
    limits: list[Any] = []
    for campaign in book.campaigns:
        budget = "" if campaign.budget_micros is None else campaign.budget_micros
        limits += [campaign.campaign_id, campaign.budget_per_day_micros, budget, int(not campaign.paused)]
    (done,) = yield Commands(
        (("EVAL", _CHANGE, 3, keys.ads, keys.ads_revision, keys.ads_limits, revision, book.to_json(), *limits),)
    )
    return bool(done)


def note_served(
    keys: EventKeys, ads: Sequence[Served], *, user_id: str, day: int, click_window: int
) -> Generator[Commands, list[Any], list[bool]]:
    """Note ads as shown to a user; for each, whether it may be.

    It may not if its campaign is paused, has spent its budget, or was shown to the user as often as its cap allows, or
    if an ad of its impression id was shown before.

    Args:
        day: counted from 1970. click_window: seconds within which a click is charged.
    """
    if not ads:
        return []
    named = [keys.ads_limits, keys.ads_spent, keys.ads_day(day), keys.ads_clicks, keys.ads_shown(day, user_id)]
    named += [keys.ad_impression(ad.impression_id) for ad in ads]
    values: list[Any] = [DAY_KEPT, SHOWN_KEPT, click_window]
    for ad in ads:
        values += [ad.campaign_id, ad.item_id, ad.price_micros, round(ad.expected * MILLION)]
        values.append(ad.most_per_user_per_day or 0)
    (taken,) = yield Commands((("EVAL", _SERVE, len(named), *named, *values),))
    return [bool(each) for each in taken]


def charge_click(keys: EventKeys, impression_id: str, *, day: int) -> Generator[Commands, list[Any], AdClick]:
    """Charge the click on an ad, once; to the day that it happens on, counted from 1970."""
    named = [keys.ad_impression(impression_id), keys.ads_limits, keys.ads_spent, keys.ads_day(day), keys.ads_clicks]
    (reply,) = yield Commands((("EVAL", _CLICK, len(named), *named, DAY_KEPT),))
    state, charged, campaign_id, item_id, price = (each.decode() for each in reply)
    return AdClick(impression_id, state, int(charged), int(price), campaign_id or None, item_id or None)


def _numbers(reply: Iterable[bytes | None]) -> list[int]:
    return stored_numbers(reply, "counters of campaigns")
