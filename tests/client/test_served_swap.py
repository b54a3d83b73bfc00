"""A new version is loaded into a live Triton while a client of the old one goes on asking."""

from __future__ import annotations

import threading
from typing import Any

from recsys_plugin import Page, Recommender, ReleaseChanged


def test_no_page_mixes_versions_while_a_new_one_is_loaded(small_shop: Any) -> None:
    """Triton runs the newest version of each step, whichever ensemble was asked for; the client must notice."""
    moment = small_shop.as_of.timestamp()
    pages: list[Page] = []
    refused: list[ReleaseChanged] = []
    over = threading.Event()
    user = small_shop.some_users[0]
    with Recommender(small_shop.redis_url, small_shop.triton_url, timeout=30.0, clock=lambda: moment) as client:
        before = client.version
        wanted = client.recommend(user).item_ids

        def ask() -> None:
            while not over.is_set():
                try:
                    pages.append(client.recommend(user))
                except ReleaseChanged as error:
                    refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            small_shop.command.run("export", "--force", "--two-tower-steps", "60", "--ranker-epochs", "1")
            small_shop.command.run("up")
        finally:
            over.set()
            for thread in threads:
                thread.join()
        # Nobody called refresh(): the client took up the new version by itself.
        assert client.recommend(user).served_by.version == client.version == before + 1
    assert {page.served_by.version for page in pages} <= {before, before + 1}
    assert all(page.served_by.version == page.served_by.catalogue_version for page in pages)
    # The same models were exported again, so every page of either version must be the same; a mixed one need not be.
    assert {page.item_ids for page in pages} == {wanted}
    assert all("model recommend" in str(error) for error in refused)
