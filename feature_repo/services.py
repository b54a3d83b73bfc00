"""What each model version reads. A served model's feature contract is derived from its service, in this order."""

from feast import FeatureService
from item_views import item_activity, item_catalogue, item_demand_forecast, item_embedding, item_statistics
from user_views import (
    user_activity,
    user_embedding,
    user_profile,
    user_purchase_forecast,
    user_recent_items,
    user_session,
    user_statistics,
    user_text,
)

# The ranking models read everything about the user at request time; items travel inside the models.
ranking_v1 = FeatureService(
    name="ranking_v1",
    features=[user_profile, user_statistics, user_recent_items, user_session, user_text, user_purchase_forecast],
    tags={"team": "recommendation"},
    description="User features of the two-tower and CTR models, version 1.",
)

# The catalogue snapshot that export builds into the models.
item_snapshot_v1 = FeatureService(
    name="item_snapshot_v1",
    features=[item_catalogue, item_statistics, item_demand_forecast],
    tags={"team": "recommendation"},
    description="Item features built into the exported models, version 1.",
)

# Vectors for neighbours and analysis.
embeddings_v1 = FeatureService(
    name="embeddings_v1",
    features=[user_embedding, item_embedding],
    tags={"team": "recommendation"},
    description="User and item vectors, version 1.",
)

# What the event stream keeps up to date, for reports and for checks against history.
live_v1 = FeatureService(
    name="live_v1",
    features=[user_recent_items, user_session, user_activity, item_activity],
    tags={"team": "recommendation"},
    description="The live views of users and items, version 1.",
)
