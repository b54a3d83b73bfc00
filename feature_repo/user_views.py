"""What is known of a user.

A field's tags are what the model's feature contract needs beyond its type: `default` stands in for a missing or
expired value, `length` pads or cuts a list (lists keep the newest or weightiest first), and `encoding: row` turns
item ids into catalogue rows.
"""

from datetime import timedelta

from entities import user
from feast import FeatureView, Field
from feast.types import Array, Float32, Int64, String, UnixTimestamp
from sources import (
    user_activity_push,
    user_embedding_table,
    user_profile_table,
    user_purchase_forecast_table,
    user_recent_items_push,
    user_session_push,
    user_statistics_table,
    user_text_table,
)

TEXT = {"default": ""}
COUNT = {"default": "0"}
TIME = {"default": "0"}
FAVOURITES = {"default": "", "length": "100", "encoding": "row"}
RECENT = {"default": "", "length": "50", "encoding": "row"}

# Profile facts change rarely and help most when a user has bought little or nothing.
user_profile = FeatureView(
    name="user_profile",
    entities=[user],
    ttl=timedelta(days=3650),
    schema=[
        Field(name="country", dtype=String, tags=TEXT, description="Country of residence."),
        Field(name="gender", dtype=String, tags=TEXT, description="Gender as told to the shop."),
        Field(name="age_group", dtype=String, tags=TEXT, description="Age band."),
        Field(name="income_group", dtype=String, tags=TEXT, description="Income band."),
        Field(name="household", dtype=String, tags=TEXT, description="Size and composition of the household."),
        Field(name="segment", dtype=String, tags=TEXT, description="The shop's own customer segment."),
        Field(name="signed_up_at", dtype=UnixTimestamp, tags=TIME, description="When the user joined."),
    ],
    source=user_profile_table,
    tags={"team": "recommendation", "freshness": "batch"},
    description="Profile facts: the start for users who have bought little or nothing.",
)

# Much of a shop's business is repeat business: what a user buys often, how much and how lately, predicts his next
# basket best.
user_statistics = FeatureView(
    name="user_statistics",
    entities=[user],
    ttl=timedelta(days=730),
    schema=[
        Field(
            name="purchases_7d",
            dtype=Float32,
            tags=COUNT,
            description="Order lines bought in the 7 days up to the last purchase.",
        ),
        Field(name="purchases_30d", dtype=Float32, tags=COUNT, description="Order lines bought in 30 days."),
        Field(name="purchases_90d", dtype=Float32, tags=COUNT, description="Order lines bought in 90 days."),
        Field(name="baskets_90d", dtype=Float32, tags=COUNT, description="Baskets in 90 days."),
        Field(
            name="spend_90d",
            dtype=Float32,
            tags=COUNT,
            description="Money spent in 90 days, in the shop's currency.",
        ),
        Field(
            name="average_price_90d",
            dtype=Float32,
            tags=COUNT,
            description="Mean unit price paid in 90 days.",
        ),
        Field(name="returns_90d", dtype=Float32, tags=COUNT, description="Order lines returned in 90 days."),
        Field(
            name="lifetime_purchases",
            dtype=Int64,
            tags=COUNT,
            description="Order lines bought since the first.",
        ),
        Field(
            name="first_purchase_at",
            dtype=UnixTimestamp,
            tags=TIME,
            description="Time of the first purchase.",
        ),
        Field(name="last_purchase_at", dtype=UnixTimestamp, tags=TIME, description="Time of the last purchase."),
        Field(
            name="favourite_items",
            dtype=Array(String),
            tags=FAVOURITES,
            description="Items bought most, each purchase halved in weight every 90 days; weightiest first.",
        ),
        Field(
            name="favourite_weights",
            dtype=Array(Float32),
            tags={"default": "0", "length": "100"},
            description="The weights of favourite_items, as of the last purchase.",
        ),
    ],
    source=user_statistics_table,
    tags={"team": "recommendation", "freshness": "batch"},
    description="Purchase statistics over windows: repeat business is predicted from these.",
)

# The next page must reflect the last click, so the latest events are pushed as they happen.
user_recent_items = FeatureView(
    name="user_recent_items",
    entities=[user],
    ttl=timedelta(days=365),
    schema=[
        Field(
            name="item_ids",
            dtype=Array(String),
            tags=RECENT,
            description="Items of the last 50 events, newest first.",
        ),
        Field(
            name="event_type_codes",
            dtype=Array(Int64),
            tags={"default": "0", "length": "50"},
            description="Types of those events: 1 impression, 2 click, 3 cart, 4 purchase, 5 return.",
        ),
        Field(
            name="timestamps",
            dtype=Array(UnixTimestamp),
            tags={"default": "0", "length": "50"},
            description="Times of those events.",
        ),
    ],
    source=user_recent_items_push,
    tags={"team": "recommendation", "freshness": "live"},
    description="The last 50 events: what the user is after now.",
)

# A visit has a mood: what was done in it so far tells browsing from buying. It is over half an hour after its last
# event.
user_session = FeatureView(
    name="user_session",
    entities=[user],
    ttl=timedelta(minutes=30),
    schema=[
        Field(name="session_clicks", dtype=Int64, tags=COUNT, description="Clicks in this visit."),
        Field(
            name="session_carts",
            dtype=Int64,
            tags=COUNT,
            description="Items put into the cart in this visit.",
        ),
        Field(name="session_purchases", dtype=Int64, tags=COUNT, description="Order lines bought in this visit."),
        Field(name="session_started_at", dtype=UnixTimestamp, tags=TIME, description="When this visit began."),
        Field(name="last_query", dtype=String, tags=TEXT, description="The last search text of this visit."),
    ],
    source=user_session_push,
    tags={"team": "recommendation", "freshness": "live"},
    description="Counters of the current visit: browsing or buying.",
)

# A burst of clicks or a day of carts says how near a purchase is, and the categories say of what.
user_activity = FeatureView(
    name="user_activity",
    entities=[user],
    ttl=timedelta(days=30),
    schema=[
        Field(name="clicks_1h", dtype=Int64, tags=COUNT, description="Clicks in 1 hour."),
        Field(name="decayed_clicks_1h", dtype=Float32, tags=COUNT, description="Clicks in 1 hour, decayed."),
        Field(name="carts_1h", dtype=Int64, tags=COUNT, description="Items put into the cart in 1 hour."),
        Field(
            name="decayed_carts_1h",
            dtype=Float32,
            tags=COUNT,
            description="Items carted in 1 hour, decayed.",
        ),
        Field(name="purchases_1h", dtype=Int64, tags=COUNT, description="Order lines bought in 1 hour."),
        Field(name="decayed_purchases_1h", dtype=Float32, tags=COUNT, description="Order lines in 1 hour, decayed."),
        Field(name="clicks_24h", dtype=Int64, tags=COUNT, description="Clicks in 24 hours."),
        Field(name="decayed_clicks_24h", dtype=Float32, tags=COUNT, description="Clicks in 24 hours, decayed."),
        Field(name="carts_24h", dtype=Int64, tags=COUNT, description="Items put into the cart in 24 hours."),
        Field(
            name="decayed_carts_24h",
            dtype=Float32,
            tags=COUNT,
            description="Items carted in 24 hours, decayed.",
        ),
        Field(name="purchases_24h", dtype=Int64, tags=COUNT, description="Order lines bought in 24 hours."),
        Field(
            name="decayed_purchases_24h",
            dtype=Float32,
            tags=COUNT,
            description="Order lines in 24 hours, decayed.",
        ),
        Field(name="clicks_7d", dtype=Int64, tags=COUNT, description="Clicks in 7 days."),
        Field(name="decayed_clicks_7d", dtype=Float32, tags=COUNT, description="Clicks in 7 days, decayed."),
        Field(name="carts_7d", dtype=Int64, tags=COUNT, description="Items put into the cart in 7 days."),
        Field(
            name="decayed_carts_7d",
            dtype=Float32,
            tags=COUNT,
            description="Items carted in 7 days, decayed.",
        ),
        Field(name="purchases_7d", dtype=Int64, tags=COUNT, description="Order lines bought in 7 days."),
        Field(name="decayed_purchases_7d", dtype=Float32, tags=COUNT, description="Order lines in 7 days, decayed."),
        Field(
            name="categories",
            dtype=Array(String),
            tags={"default": "", "length": "5"},
            description="Categories of most taste in 30 days, weightiest first.",
        ),
        Field(
            name="category_weights",
            dtype=Array(Float32),
            tags={"default": "0", "length": "5"},
            description="The weights of categories: a click 1, a cart 3, a purchase 5, decayed over 30 days.",
        ),
    ],
    source=user_activity_push,
    tags={"team": "recommendation", "freshness": "live"},
    description="Activity over windows up to the last act: how near a purchase is, and of what.",
)

# Who writes reviews or posts says what he likes in his own words; training reads them with the text encoder.
user_text = FeatureView(
    name="user_text",
    entities=[user],
    ttl=timedelta(days=3650),
    schema=[
        Field(name="texts", dtype=Int64, tags=COUNT, description="Texts so far; 0 means that the vector says nothing."),
        Field(
            name="vector",
            dtype=Array(Float32),
            tags={"default": "0", "length": "32"},
            description="Mean vector of the texts, along the 32 principal axes of the catalogue's texts.",
        ),
    ],
    source=user_text_table,
    tags={"team": "recommendation", "freshness": "batch"},
    description="A user's own texts.",
)

# Neighbours, segments and the fallback when the user tower is away need the user's vector without computing it.
user_embedding = FeatureView(
    name="user_embedding",
    entities=[user],
    ttl=timedelta(days=90),
    schema=[Field(name="vector", dtype=Array(Float32), description="Unit vector of the user tower.")],
    source=user_embedding_table,
    tags={"team": "recommendation", "freshness": "batch"},
    description="User vectors: similar users, and retrieval when the user tower is away.",
)

# Who is about to buy wants other things than who has only just bought, or has left for good.
user_purchase_forecast = FeatureView(
    name="user_purchase_forecast",
    entities=[user],
    ttl=timedelta(days=14),
    schema=[
        Field(
            name="purchase_probability_7d",
            dtype=Float32,
            tags=COUNT,
            description="The chance of a purchase in the coming 7 days.",
        ),
        Field(
            name="days_to_next_purchase",
            dtype=Float32,
            tags={"default": "365"},
            description="Median of the days until the next purchase, at most 365.",
        ),
        Field(
            name="active_probability",
            dtype=Float32,
            tags=COUNT,
            description="The chance that the user buys again at all.",
        ),
    ],
    source=user_purchase_forecast_table,
    tags={"team": "recommendation", "freshness": "daily"},
    description="When the user buys next.",
)
