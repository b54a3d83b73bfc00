"""Where features come from: Parquet tables that `recsys` computes from events, and push sources for the live views."""

from pathlib import Path

from feast import FileSource, PushSource

# Absolute, because the DuckDB offline store resolves a relative path against the caller's folder. Apply again after a
# move.
_DATA = Path(__file__).resolve().parent / "data"


def _table(name: str, description: str) -> FileSource:
    return FileSource(
        name=f"{name}_table",
        path=str(_DATA / f"{name}.parquet"),
        timestamp_field="event_timestamp",
        description=description,
    )


# Facts that users told the shop, one row per user and change.
user_profile_table = _table("user_profile", "Profile facts of each user.")

# What a user had bought, as of the moment just after each of his purchases.
user_statistics_table = _table("user_statistics", "Purchase statistics after each basket of a user.")

# The last 50 events of a user, as of the moment just after each of them.
user_recent_items_table = _table("user_recent_items", "Recent items after each event of a user.")

# Counters of a user's visit, as of the moment just after each event.
user_session_table = _table("user_session", "Session counters after each event of a user.")

# How much a user did lately, as of the moment just after each of his acts.
user_activity_table = _table("user_activity", "Activity of a user over windows after each of his acts.")

# What users wrote themselves, as of the moment just after each of their texts.
user_text_table = _table("user_text", "Mean text vector after each text of a user.")

# The user tower's vectors, one row per user and training run.
user_embedding_table = _table("user_embedding", "User vectors of the two-tower model.")

# The catalogue as the shop wrote it.
item_catalogue_table = _table("item_catalogue", "Title, category, brand and price of each item.")

# How each item sold, once a week and at the end of the data.
item_statistics_table = _table("item_statistics", "Weekly sales statistics of each item.")

# What shoppers did with an item lately, as of the moment just after each of their acts.
item_activity_table = _table("item_activity", "Activity around an item over windows after each act.")

# How many of an item there were, as of the moment just after each change; the shop's to keep, empty otherwise.
item_stock_table = _table("item_stock", "Stock of an item after each change.")

# The item tower's vectors, one row per item and training run.
item_embedding_table = _table("item_embedding", "Item vectors of the two-tower model and of the text encoder.")

# Events reach the live views in milliseconds through these; the tables above serve their history to training.
user_recent_items_push = PushSource(name="user_recent_items_push", batch_source=user_recent_items_table)
user_session_push = PushSource(name="user_session_push", batch_source=user_session_table)
user_activity_push = PushSource(name="user_activity_push", batch_source=user_activity_table)
item_activity_push = PushSource(name="item_activity_push", batch_source=item_activity_table)
item_stock_push = PushSource(name="item_stock_push", batch_source=item_stock_table)

# What the coming week brings, forecast once a week for training and every day of the last week; see `recsys forecast`.
item_demand_forecast_table = _table("item_demand_forecast", "Purchases of each item expected in the coming 7 days.")
category_demand_forecast_table = _table("category_demand_forecast", "Purchases of each category expected in 7 days.")
user_purchase_forecast_table = _table("user_purchase_forecast", "When each user is expected to buy next.")
