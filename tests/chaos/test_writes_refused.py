"""A Redis that refuses writes, a model file that is none, a registry that changed: what those see who are meant to."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_shop import NOW
from waiting import holds_within, wait_until

from recsys_plugin import Event, Recommender
from recsys_plugin.chaos.faults import CorruptModel, Fault, FullDisk, MaxMemory, RegistryChange
from recsys_plugin.chaos.target import Target
from recsys_plugin.errors import FeatureContractError, StoreUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.runtime.triton_client import TritonManager

CART = Event(user_id="mug-lover", item_id="mug", event_type="cart")


def make(target: Target, **options: object) -> Recommender:
    return Recommender(target.redis_url, target.triton_url, timeout=5.0, **options)  # type: ignore[arg-type]


def recorded(target: Target) -> int:
    """How many of the user's events Redis has, and those of others in the same stream."""
    with target.store() as redis:
        return int(redis.xlen(EventKeys("recsys").events(EventKeys.partition("mug-lover"))))


@pytest.mark.parametrize("fault", [MaxMemory(), FullDisk()], ids=lambda fault: fault.name)
def test_writes_are_refused_by_name_and_spooled_events_arrive_later(
    target: Target, fault: Fault, tmp_path: Path
) -> None:
    with make(target) as client, make(target, spool=tmp_path) as spooling:
        whole = client.recommend("mug-lover", 3).item_ids
        before = recorded(target)
        fault.begin(target)
        try:
            # The disk shows full at the first write that has to reach it.
            assert holds_within(lambda: refused(client), 20)
            with pytest.raises(StoreUnavailable):
                client.record(CART)
            assert spooling.record(CART).state == "spooled"
            assert client.recommend("mug-lover", 3).item_ids == whole
        finally:
            fault.end(target)
        wait_until(lambda: not refused(client))
        client.record(CART)
        wait_until(lambda: recorded(target) >= before + 2)


def refused(client: Recommender) -> bool:
    try:
        client.set_stock({"tea": 5})
    except StoreUnavailable:
        return True
    return False


def test_a_corrupt_model_file_is_refused_and_the_old_one_goes_on_serving(target: Target) -> None:
    fault = CorruptModel()
    with make(target, clock=lambda: NOW) as client:
        whole = client.recommend("mug-lover", 3).item_ids
        fault.begin(target)
        try:
            assert client.recommend("mug-lover", 3).item_ids == whole
            with make(target, clock=lambda: NOW) as late:
                assert late.recommend("mug-lover", 3).item_ids == whole
        finally:
            fault.end(target)
        assert client.recommend("mug-lover", 3).item_ids == whole
        with TritonManager(target.triton.url) as triton:
            assert all(state.ready for state in triton.index())


def test_a_changed_registry_stops_new_clients_and_no_others(target: Target) -> None:
    fault = RegistryChange()
    with make(target, clock=lambda: NOW) as client:
        whole = client.recommend("mug-lover", 3).item_ids
        fault.begin(target)
        try:
            with pytest.raises(FeatureContractError, match="profile:purchases"):
                make(target)
            assert client.recommend("mug-lover", 3).item_ids == whole
        finally:
            fault.end(target)
    with make(target, clock=lambda: NOW) as after:
        assert after.recommend("mug-lover", 3).item_ids == whole
