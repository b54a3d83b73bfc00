"""Training and serving see the same numbers: what Feast joins at a moment is what the client reads from Redis then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from shops import Shop
from synthetic import NEVER_SEEN

from recsys_plugin.data.store import load_dataset
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.features.plan import FeatureTensors, ReadFeatures, ReadPlan
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.pipeline.feast_repository import RANKING_SERVICE, contract_of, open_store, point_in_time
from recsys_plugin.training.frames import catalogue_index
from recsys_plugin.training.packing import UserTensors, pack_frame


def trained(shop: Shop, users: list[str]) -> tuple[FeatureContract, pd.Index[str], UserTensors]:
    """The features of users at the shop's moment as training joins them."""
    store = open_store(shop.settings, shop.redis_url)
    contract = contract_of(store)
    items = catalogue_index(load_dataset(shop.settings).frame("items", ["item_id"]))
    asked = pd.DataFrame({"user_id": users, "event_timestamp": pd.Timestamp(shop.as_of).as_unit("us")})
    return contract, items, pack_frame(contract, point_in_time(store, asked, RANKING_SERVICE), items)


def served(shop: Shop, contract: FeatureContract, items: pd.Index[str], users: list[str]) -> FeatureTensors:
    """The same features as a request at the shop's moment reads them."""
    plan = ReadPlan(contract)
    reader = FeatureReader(RedisAddress.parse(shop.redis_url), timeout=5)
    replies = reader.read(ReadFeatures([plan.key(user) for user in users], plan.fields), timeout=5)
    reader.close()
    rows = {item: row for row, item in enumerate(items)}
    return plan.decode(users, replies, now=shop.as_of.timestamp(), rows=rows)[0]


def differences(contract: FeatureContract, one: Any, other: Any, users: list[str]) -> list[str]:
    """Each feature of each user that is not the same, to the last bit."""
    found = []
    for reference, slot in contract.slots.items():
        columns = slice(slot.offset, slot.offset + slot.width)
        left, right = (getattr(tensors, str(slot.tensor))[:, columns] for tensors in (one, other))
        for line in np.flatnonzero((left != right).any(axis=1)):
            found.append(f"{reference} of {users[line]}: trained {left[line]}, served {right[line]}")
    return found


@pytest.mark.parametrize("which", ["shop", "small_shop"])
def test_served_features_equal_trained_ones(which: str, request: pytest.FixtureRequest) -> None:
    shop: Shop = request.getfixturevalue(which)
    events = load_dataset(shop.settings).frame("events", ["user_id", "event_type", "timestamp"])
    latest = events.sort_values("timestamp", kind="stable")["user_id"].drop_duplicates(keep="last")
    # The last to act have sessions under way, the first to act for the last time have expired ones.
    users = [*latest.tail(15), *latest.head(10), *shop.some_users[-24:], NEVER_SEEN, "nobody"]
    users = list(dict.fromkeys(map(str, users)))
    contract, items, asked = trained(shop, users)
    got = served(shop, contract, items, users)
    texts = UserTensors(
        asked.user_float,
        asked.user_int,
        np.array([[text.encode() for text in line] for line in asked.user_string], dtype=object),
    )
    assert texts.user_float.dtype == got.user_float.dtype == np.float32
    assert texts.user_int.dtype == got.user_int.dtype == np.int64
    assert differences(contract, texts, got, users) == []
    # Not because all of it is missing: only the two strangers and the ten who lapsed first may have nothing left.
    assert np.count_nonzero(got.user_float.any(axis=1)) >= len(users) - 12
    assert np.count_nonzero((got.user_int >= 0).sum(axis=1) > 30) >= len(users) - 12
