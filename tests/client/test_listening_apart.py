"""Reading items beside the requests: in portions, with rests, and not all clients at once after a failure."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.client.arrivals import take_up, take_up_everything
from recsys_plugin.client.release import Release
from recsys_plugin.client.rest import REST, Rest, portions
from recsys_plugin.client.watching import Listening
from recsys_plugin.features.item_facts import ItemPlan
from recsys_plugin.features.plan import ReadFeatures
from recsys_plugin.features.value_encoding import encode_value
from recsys_plugin.inference.catalogue import UNKNOWN_STOCK, Catalogue
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels

SIZE = 1200
#: Of items read at once, such that it takes the processor for no more than half a millisecond or so.
MOST_AT_ONCE = 250


@given(st.lists(st.integers()), st.integers(1, 7))
def test_portions_are_all_values_in_order(values: list[int], size: int) -> None:
    made = list(portions(iter(values), size))
    assert [value for portion in made for value in portion] == values
    assert all(len(portion) == size for portion in made[:-1])
    assert all(made)


def release_of(size: int) -> Release:
    item_ids = tuple(f"item-{row}" for row in range(size))
    empty = Labels([""] * size)
    catalogue = Catalogue(
        version=1,
        item_ids=item_ids,
        rows={item_id: row for row, item_id in enumerate(item_ids)},
        titles=np.array(["a title"] * size, dtype=object),
        categories=empty,
        subcategories=empty,
        brands=empty,
        prices=np.ones(size),
        available_since=np.zeros(size, np.int64),
        stock=np.full(size, UNKNOWN_STOCK, np.int64),
        vectors=ItemVectors(size),
    )
    return Release(1, catalogue, {}, {})


def played(flow: Generator[Any, Any, Release], stock: int) -> tuple[Release, list[int]]:
    """What a flow comes to if every item has this stock; and how many items were read at a time, 0 for a rest."""
    seen: list[int] = []
    call = next(flow)
    try:
        while True:
            if isinstance(call, Rest):
                seen.append(0)
                call = flow.send(None)
                continue
            assert isinstance(call, ReadFeatures)
            seen.append(len(call.keys))
            told = encode_value("INT64", stock)
            # Of the fields of an item its stock is the last but one, the time of the view the last.
            reply = (told,) if len(call.fields) == 1 else (*(None for _ in call.fields[2:]), told, None)
            call = flow.send([reply for _ in call.keys])
    except StopIteration as end:
        release: Release = end.value
        return release, seen


@pytest.mark.parametrize("take", [take_up, take_up_everything])
def test_many_items_are_taken_up_in_portions_with_rests(take: Any) -> None:
    release = release_of(SIZE)
    after, seen = played(take(release, ItemPlan("shop"), iter(release.catalogue.item_ids)), 0)
    assert after.sold_out.tolist() == list(range(SIZE))
    assert sum(seen) == SIZE
    assert max(seen) <= MOST_AT_ONCE
    assert not any(first and second for first, second in pairwise(seen))  # a rest between any two


def test_a_few_written_items_do_not_wait() -> None:
    release = release_of(20)
    after, seen = played(take_up(release, ItemPlan("shop"), release.catalogue.item_ids[:5]), 0)
    assert seen == [5]
    assert after.sold_out.tolist() == [0, 1, 2, 3, 4]
    assert REST.seconds < 0.005


def test_clients_come_back_at_different_times() -> None:
    now = 100.0
    draws = np.random.default_rng(0)
    clients = [Listening(draws.random, lambda: now) for _ in range(500)]
    for client in clients:
        client.began(polls=False)
    assert all(client.is_due() for client in clients)  # the first time it is what the client starts with
    assert not any(client.is_due() for client in clients)
    pauses = np.array([client.failed() for client in clients])
    assert 0.5 <= pauses.min() < 0.6
    assert 1.4 < pauses.max() <= 1.5
    for client in clients:
        client.began(polls=False)
    # In any fifth of the four seconds a fifth of them read.
    for second in range(1, 6):
        now = 100.0 + 0.8 * second
        assert sum(client.is_due() for client in clients) == pytest.approx(100, abs=30)
    assert not any(client.is_due() for client in clients)


def test_where_the_server_cannot_tell_all_is_read_at_once() -> None:
    listening = Listening(lambda: 1.0, lambda: 0.0)
    listening.failed()
    listening.began(polls=True)
    assert listening.is_due()
