"""A new version under load: no failed request, no page that mixes two versions; and a Triton that comes back."""

from __future__ import annotations

import threading
import time

import pytest
from tiny_shop import ITEM_IDS, NOW, TinyShop
from waiting import wait_until

from recsys_plugin import InferenceUnavailable, Page, Recommender

NEW_ITEMS = ("box2", "jar2", "mug2", "pot2", "cup2", "tea2", "hat2")


def test_swap_under_load_then_restart(disposable_shop: TinyShop) -> None:
    tiny = disposable_shop
    with Recommender(tiny.redis_url, tiny.triton_url, timeout=20, clock=lambda: NOW) as client:
        assert client.refresh() == client.version == 1
        pages: list[Page] = []
        errors: list[BaseException] = []
        swapped = threading.Event()

        def ask() -> None:
            try:
                after = 0
                while after < 5:
                    pages.append(client.recommend("mug-lover", 7))
                    after += swapped.is_set()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: pages or errors)
            tiny.publish(2, NEW_ITEMS)
            assert client.refresh() == 2
        finally:
            swapped.set()
            for thread in threads:
                thread.join(timeout=60)
        assert errors == []
        for page in pages:
            of_version = {1: ITEM_IDS, 2: NEW_ITEMS}[page.served_by.version]
            assert set(page.item_ids) == set(of_version)
            assert page.served_by.catalogue_version == page.served_by.version
            assert page.served_by.catalogue_size == len(of_version)
        assert {page.served_by.version for page in pages} == {1, 2}

        tiny.stop_triton()
        with pytest.raises(InferenceUnavailable, match="model recommend"):
            client.recommend("mug-lover", strict=True)
        tiny.start_triton()
        deadline = time.monotonic() + 20
        while True:
            try:
                assert client.refresh() == 2
                break
            except InferenceUnavailable:
                # gRPC tries again at most a second after its last attempt.
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert len(client.recommend("mug-lover", 7)) == 7
