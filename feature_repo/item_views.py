"""What is known of an item."""

from datetime import timedelta

from entities import category, item
from feast import FeatureView, Field
from feast.types import Array, Float32, Int64, String, UnixTimestamp
from sources import (
    category_demand_forecast_table,
    item_activity_push,
    item_catalogue_table,
    item_demand_forecast_table,
    item_embedding_table,
    item_statistics_table,
    item_stock_push,
)

# Pages show titles and prices, rules filter on category and brand, and new items have nothing else to go by.
item_catalogue = FeatureView(
    name="item_catalogue",
    entities=[item],
    ttl=timedelta(days=3650),
    schema=[
        Field(name="title", dtype=String, description="Name shown to customers."),
        Field(name="category", dtype=String, description="Category."),
        Field(name="subcategory", dtype=String, description="Finer category."),
        Field(name="brand", dtype=String, description="Brand or maker."),
        Field(name="price", dtype=Float32, description="Unit price in the shop's currency."),
    ],
    source=item_catalogue_table,
    tags={"team": "catalogue", "freshness": "batch"},
    description="The catalogue as the shop wrote it.",
)

# What sells now is the strongest prior over what anyone will buy next.
item_statistics = FeatureView(
    name="item_statistics",
    entities=[item],
    ttl=timedelta(days=365),
    schema=[
        Field(name="purchases_7d", dtype=Float32, description="Order lines in 7 days."),
        Field(name="purchases_30d", dtype=Float32, description="Order lines in 30 days."),
        Field(name="purchases_90d", dtype=Float32, description="Order lines in 90 days."),
        Field(name="buyers_30d", dtype=Float32, description="Distinct buyers in 30 days."),
        Field(name="buyers_90d", dtype=Float32, description="Distinct buyers in 90 days."),
        Field(name="returns_90d", dtype=Float32, description="Order lines returned in 90 days."),
        Field(name="average_price_90d", dtype=Float32, description="Mean unit price paid in 90 days."),
        Field(name="lifetime_purchases", dtype=Int64, description="Order lines since the first sale."),
        Field(name="first_sold_at", dtype=UnixTimestamp, description="Time of the first sale."),
        Field(name="last_sold_at", dtype=UnixTimestamp, description="Time of the last sale."),
    ],
    source=item_statistics_table,
    tags={"team": "recommendation", "freshness": "batch"},
    description="Sales statistics over windows: what sells now.",
)

# A product that many click today is worth showing today; the catalogue snapshot cannot know.
item_activity = FeatureView(
    name="item_activity",
    entities=[item],
    ttl=timedelta(days=7),
    schema=[
        Field(name="clicks_1h", dtype=Int64, description="Clicks in 1 hour."),
        Field(name="carts_1h", dtype=Int64, description="Items put into the cart in 1 hour."),
        Field(name="purchases_1h", dtype=Int64, description="Order lines bought in 1 hour."),
        Field(name="clicks_24h", dtype=Int64, description="Clicks in 24 hours."),
        Field(name="carts_24h", dtype=Int64, description="Items put into the cart in 24 hours."),
        Field(name="purchases_24h", dtype=Int64, description="Order lines bought in 24 hours."),
        Field(name="clicks_7d", dtype=Int64, description="Clicks in 7 days."),
        Field(name="carts_7d", dtype=Int64, description="Items put into the cart in 7 days."),
        Field(name="purchases_7d", dtype=Int64, description="Order lines bought in 7 days."),
        Field(name="conversion_1h", dtype=Float32, description="Purchases a click in 1 hour; 0 without clicks."),
        Field(name="conversion_24h", dtype=Float32, description="Purchases a click in 24 hours; 0 without clicks."),
        Field(name="conversion_7d", dtype=Float32, description="Purchases a click in 7 days; 0 without clicks."),
    ],
    source=item_activity_push,
    tags={"team": "recommendation", "freshness": "live"},
    description="What shoppers did with the item over windows, in steps of a twelfth of each.",
)

# What is sold out must leave every page at once. An item without a row can be sold: not every shop counts its stock.
item_stock = FeatureView(
    name="item_stock",
    entities=[item],
    ttl=timedelta(days=3650),
    schema=[Field(name="stock", dtype=Int64, description="Units that can be sold now.")],
    source=item_stock_push,
    tags={"team": "catalogue", "freshness": "live"},
    description="Stock as the shop pushes it.",
)

# Similar items and retrieval outside Triton need the vectors; the models carry their own copy of the same numbers.
item_embedding = FeatureView(
    name="item_embedding",
    entities=[item],
    ttl=timedelta(days=90),
    schema=[
        Field(name="vector", dtype=Array(Float32), description="Unit vector of the item tower."),
        Field(name="text_vector", dtype=Array(Float32), description="Unit vector of the text encoder."),
    ],
    source=item_embedding_table,
    tags={"team": "recommendation", "freshness": "batch"},
    description="Item vectors of the item tower and of the text encoder.",
)

# What sells next week is not what sold last month: seasons end, new items catch on. A forecast of an earlier week says
# nothing, so it expires.
item_demand_forecast = FeatureView(
    name="item_demand_forecast",
    entities=[item],
    ttl=timedelta(days=14),
    schema=[
        Field(name="purchases_next_7d", dtype=Float32, description="Order lines expected in the coming 7 days."),
        Field(
            name="category_purchases_next_7d",
            dtype=Float32,
            description="Order lines of the item's category expected in the coming 7 days.",
        ),
        Field(name="demand_class", dtype=String, description="Smooth, erratic, intermittent, lumpy, short, dormant."),
        Field(name="model", dtype=String, description="What made the forecast; none for a dormant one."),
    ],
    source=item_demand_forecast_table,
    tags={"team": "recommendation", "freshness": "daily"},
    description="Demand of the coming week: what will sell.",
)

# Stock and pages are planned by category, where there is more to forecast from than a single item's sales.
category_demand_forecast = FeatureView(
    name="category_demand_forecast",
    entities=[category],
    ttl=timedelta(days=14),
    schema=[
        Field(name="purchases_next_7d", dtype=Float32, description="Order lines expected in the coming 7 days."),
        Field(name="demand_class", dtype=String, description="Smooth, erratic, intermittent, lumpy, short, dormant."),
        Field(name="model", dtype=String, description="What made the forecast; none for a dormant one."),
    ],
    source=category_demand_forecast_table,
    tags={"team": "recommendation", "freshness": "daily"},
    description="Demand of the coming week by category.",
)
