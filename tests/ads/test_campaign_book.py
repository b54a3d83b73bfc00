"""Documents of campaigns: read, written, and refused with campaign and field."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.ads.book import AuctionSettings, CampaignBook
from recsys_plugin.ads.campaign import Campaign, Targeting, UserCondition
from recsys_plugin.ads.schema import campaigns_schema
from recsys_plugin.errors import InvalidInput

#: The machine may be busy.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LEAST: dict[str, Any] = {"campaign_id": "tea", "items": ["x"], "bid_micros": 10, "budget_per_day_micros": 100}


def refused(campaign: Any, settings: Any = None) -> str:
    document = {"format": 1, "campaigns": [LEAST | {"campaign_id": "first"}, campaign]}
    with pytest.raises(InvalidInput) as caught:
        CampaignBook.from_json(json.dumps(document if settings is None else document | {"settings": settings}))
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"bid_micros": 0}, "bid_micros: 0 is not a whole number from 1"),
        ({"bid_micros": 0.5}, "bid_micros: 0.5 is not"),
        ({"bid_micros": True}, "bid_micros: True is not"),
        ({"bid_micros": 10**16}, "bid_micros: 1"),
        ({"budget_per_day_micros": 9}, "budget_per_day_micros: 9 does not pay one bid of 10"),
        ({"budget_micros": "much"}, "budget_micros: 'much' is not"),
        ({"campaign_id": "a:b"}, "campaign_id: 'a:b' is not 1 to 64 letters"),
        ({"campaign_id": ""}, "campaign_id: '' is not"),
        ({"campaign_id": "x" * 65}, "campaign_id: 'xxx"),
        ({"items": []}, "items: there is none"),
        ({"items": ["a", "a"]}, "items: an item comes twice"),
        ({"items": ["a\n"]}, "items[0]: 'a\\n' holds a control character"),
        ({"items": "tea"}, "items: expected a list of ids"),
        ({"items": [str(number) for number in range(101)]}, "items: more than 100 ids"),
        ({"start": "tomorrow"}, "start: 'tomorrow' is not an ISO 8601 time"),
        ({"end": 5}, "end: 5 is not an ISO 8601 time"),
        ({"start": "2026-02-01", "end": "2026-01-01"}, "end: 2026-01-01 is not after start"),
        ({"paused": "no"}, "paused: 'no' is neither true nor false"),
        ({"most_per_user_per_day": 0}, "most_per_user_per_day: 0 is not"),
        ({"colour": "red"}, "'colour' is not a field; there are campaign_id,"),
        ({"targeting": []}, "targeting: list [], expected an object"),
        ({"targeting": {"context": {"page": "home"}}}, "targeting: context.page: it is a list"),
        ({"targeting": {"context": {"page": [1]}}}, "targeting: context.page: keys and values are texts"),
        ({"targeting": {"user": [{"feature": "age"}]}}, "targeting: user[0]: feature: 'age' is not of the form"),
        ({"targeting": {"user": [{"feature": "a:b"}]}}, "targeting: user[0]: a condition has either one_of"),
        ({"targeting": {"user": [{"feature": "a:b", "at_least": "x"}]}}, "user[0]: at_least: 'x' is not a finite"),
        ({"targeting": {"user": [{"feature": "a:b", "at_least": 2, "at_most": 1}]}}, "at_least: 2 is more than"),
        ({"targeting": {"user": [{"feature": "a:b", "one_of": [0.5]}]}}, "one_of: values are texts, whole numbers"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], said: str) -> None:
    message = refused({**LEAST, **wrong})
    assert message.startswith("campaigns[1] ")
    assert said in message


@pytest.mark.parametrize("name", LEAST)
def test_what_is_missing_is_named(name: str) -> None:
    message = refused({key: value for key, value in LEAST.items() if key != name})
    assert f"{name}: it is missing" in message


def test_every_wrong_campaign_has_a_line() -> None:
    message = refused({**LEAST, "bid_micros": -1}, {"traffic": [1], "reserve_micros": 1})
    assert message.splitlines()[0].startswith("settings: traffic: it is a list of 24 numbers")
    assert message.splitlines()[1].startswith("campaigns[1] 'tea': bid_micros: -1")
    assert "campaigns[1]: int 5, expected an object" in refused(5)


def test_whole_documents() -> None:
    for text, said in [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "list [], expected an object"),
        (json.dumps({"format": 1, "campaigns": [{**LEAST, "targeting": {"context": {"\ud800": ["x"]}}}]}), "not valid"),
        ('{"format": 2, "campaigns": []}', "format: 2 is not 1"),
        ('{"format": 1}', "campaigns: it is missing"),
        ('{"format": 1, "campaigns": {}}', "campaigns: it is a list"),
    ]:
        with pytest.raises(InvalidInput, match="^" + said.replace("[", r"\[")):
            CampaignBook.from_json(text)
    twice = Campaign(campaign_id="a", items=("x",), bid_micros=1, budget_per_day_micros=1)
    with pytest.raises(InvalidInput, match="campaign_id 'a' comes twice"):
        CampaignBook((twice, twice))
    with pytest.raises(InvalidInput, match="campaign 'a': bid_micros: 1 is below the reserve of 2"):
        CampaignBook((twice,), AuctionSettings(reserve_micros=2))
    with pytest.raises(InvalidInput, match="there is no campaign 'b'"):
        CampaignBook((twice,)).with_paused("b", True)


words = st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple)
scalars = st.lists(st.text() | st.integers() | st.booleans(), min_size=1, max_size=3).map(tuple)
conditions = st.one_of(
    st.builds(UserCondition, feature=st.just("view:feature"), one_of=scalars),
    st.builds(UserCondition, feature=st.just("a:b"), at_least=st.floats(-9, 0), at_most=st.none() | st.floats(0, 9)),
)
campaigns = st.builds(
    Campaign,
    campaign_id=st.from_regex(r"[a-z0-9][a-zA-Z0-9_.-]{0,9}", fullmatch=True),
    items=st.lists(st.integers(0, 999).map(str), min_size=1, max_size=3, unique=True).map(tuple),
    bid_micros=st.integers(1, 1000),
    budget_per_day_micros=st.integers(1000, 10**15),
    budget_micros=st.none() | st.integers(1000, 10**15),
    start=st.none() | st.datetimes(max_value=datetime(2026, 1, 1)).map(datetime.isoformat),
    end=st.none() | st.datetimes(min_value=datetime(2026, 1, 2), timezones=st.just(UTC)).map(datetime.isoformat),
    targeting=st.builds(
        Targeting,
        context=st.none() | st.dictionaries(st.text(max_size=5), words, max_size=3),
        user=st.lists(conditions, max_size=2).map(tuple),
    ),
    most_per_user_per_day=st.none() | st.integers(1, 9),
    paused=st.booleans(),
)


@patient
@given(st.lists(campaigns, max_size=3, unique_by=lambda each: each.campaign_id))
def test_documents_come_back_as_they_were(made: list[Campaign]) -> None:
    book = CampaignBook(tuple(made), AuctionSettings(pace=False, quality_floor=0.01))
    text = book.to_json()
    assert CampaignBook.from_json(text) == book
    assert CampaignBook.from_json(text.encode()).to_json() == text


def test_conditions() -> None:
    grown = UserCondition("profile:age", at_least=18, at_most=30)
    assert grown.admits([18])
    assert grown.admits([12, 30.0])
    assert not grown.admits([31])
    assert not grown.admits(["20"])
    assert not grown.admits([])
    assert not grown.admits(None)
    named = UserCondition("profile:country", one_of=("DE", 1, True))
    assert named.admits(["FR", "DE"])
    assert named.admits([1.0])
    assert named.admits([True])
    assert not named.admits([False, 0, "1", None])
    assert not UserCondition("a:b", one_of=(1,)).admits([True])


def test_context() -> None:
    targeting = Targeting(context={"page": ("home", "search"), "category": ("tea",)})
    assert targeting.admits({"page": "home", "category": "tea", "more": "x"})
    assert not targeting.admits({"page": "home"})
    assert not targeting.admits({"page": "home", "category": "cups"})
    assert Targeting().admits({})


def test_days_begin_where_the_shop_is() -> None:
    midnight = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    ahead = AuctionSettings(utc_offset_minutes=60)
    assert AuctionSettings().day(midnight)[1] == 0.0
    assert ahead.day(midnight - 3600) == (AuctionSettings().day(midnight)[0], 0.0)
    assert ahead.day_begins(ahead.day(midnight)[0]) == midnight - 3600


def test_the_schema_names_every_field() -> None:
    schema = campaigns_schema()
    campaign = schema["properties"]["campaigns"]["items"]
    targeting = campaign["properties"]["targeting"]
    for described, made in [
        (campaign, Campaign),
        (schema["properties"]["settings"], AuctionSettings),
        (targeting, Targeting),
        (targeting["properties"]["user"]["items"], UserCondition),
    ]:
        assert list(described["properties"]) == [field.name for field in fields(made) if field.init]
    assert campaign["required"] == list(LEAST)
    json.dumps(schema, allow_nan=False)
