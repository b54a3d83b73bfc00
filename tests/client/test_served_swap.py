"""A new version is loaded into a live Triton while a client of the old one goes on asking."""

from __future__ import annotations

import threading
import time
from typing import Any

from recsys_plugin import Page, Recommender, RecsysError


def test_no_page_mixes_versions_while_a_new_one_is_loaded(small_shop: Any) -> None:
    """Not one request may fail: the old version goes on serving until the client has taken up the new one."""
    moment = small_shop.as_of.timestamp()
    pages: list[Page] = []
    refused: list[RecsysError] = []
    over = threading.Event()
    user = small_shop.some_users[0]
    with Recommender(small_shop.redis_url, small_shop.triton_url, timeout=30.0, clock=lambda: moment) as client:
        before = client.version
        wanted = client.recommend(user).item_ids

        def ask() -> None:
            while not over.is_set():
                try:
                    pages.append(client.recommend(user))
                except RecsysError as error:
                    refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            small_shop.command.run("export", "--force", "--two-tower-steps", "60", "--ranker-epochs", "1")
            small_shop.command.run("up")
            # Nobody calls refresh(): the client takes up the new version by itself.
            deadline = time.monotonic() + 30
            while pages[-1].served_by.version == before and time.monotonic() < deadline:
                threads[0].join(0.05)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert {page.served_by.version for page in pages} <= {before, before + 1}
    assert all(page.served_by.version == page.served_by.catalogue_version for page in pages)
    # The same models were exported again, so every page of either version must be the same; a mixed one need not be.
    assert {page.item_ids for page in pages} == {wanted}
    assert refused == []
    assert pages[-1].served_by.version == before + 1
