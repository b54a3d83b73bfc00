"""What is asked in a serving benchmark: for each user, one request of every kind, and the tensors the models get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys_plugin.bench.shop import ServedShop
from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.local import LocalRepository
from recsys_plugin.inference.tensors import Array

__all__ = ["Request", "make_requests"]

_QUERY_WORDS = 3


@dataclass(frozen=True, slots=True)
class Request:
    """One user's part in a run."""

    user_id: str
    known: bool
    """Whether the feature store has ever heard of the user."""
    item_ids: tuple[str, ...]
    """The user's own candidates, as the index proposes them; what ``rank`` is given."""
    query: str
    """What he searches: the first words of some item's title."""
    item_id: str
    """The item whose neighbours are asked for."""
    inputs: Mapping[str, Mapping[str, Array]]
    """Ensemble → its inputs in this process; texts are ``str``."""


def make_requests(
    shop: ServedShop, local: LocalRepository, *, candidates: int, page_size: int, seed: int
) -> list[Request]:
    """A request for each of the shop's users, from their features as they are in Redis now.

    Args:
        shop: the served shop.
        local: the served version's graphs, which find each user's candidates.
        candidates: how many; no more than the catalogue has.
        page_size: how many of them make a page.
        seed: fixes queries and items.

    Raises:
        CheckFailed: if the index proposes fewer candidates for a user than asked for.
    """
    catalogue = shop.release.catalogue
    count = min(candidates, len(catalogue))
    drawn = np.random.default_rng(seed).integers(len(catalogue), size=(len(shop.users), 2))
    retrieval: dict[str, Array] = {"excluded_rows": np.array([[-1]]), "counts": np.array([[count, count]])}
    requests = []
    for user_id, (titled, item_row) in zip(shop.users, drawn.tolist(), strict=True):
        tensors, found = shop.decode(user_id, shop.read(user_id))
        user: dict[str, Array] = {
            "user_float": tensors.user_float,
            "user_int": tensors.user_int,
            "user_string": np.array([[text.decode() for text in tensors.user_string[0]]], dtype=object),
        }
        rows = local.run("recommend", {**user, **retrieval})["rows"]
        if rows.min() < 0:
            raise CheckFailed(f"the index proposes {int((rows >= 0).sum())} of {count} candidates for user {user_id!r}")
        query = " ".join(str(catalogue.titles[titled]).lower().split()[:_QUERY_WORDS]) or "gift"
        requests.append(
            Request(
                user_id=user_id,
                known=found.known,
                item_ids=tuple(catalogue.item_ids[row] for row in rows[0]),
                query=query,
                item_id=catalogue.item_ids[item_row],
                inputs={
                    "recommend": {**user, **retrieval, "counts": np.array([[count, page_size]])},
                    "rank": {**user, "candidate_rows": rows},
                    "search": {
                        **user,
                        **retrieval,
                        "query": np.array([[query]], dtype=object),
                        "lexical_rows": np.array([[-1]]),
                    },
                    "similar": {
                        **retrieval,
                        "item_row": np.array([[item_row]]),
                        "excluded_rows": np.array([[item_row]]),
                    },
                },
            )
        )
    return requests
