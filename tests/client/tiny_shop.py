"""A shop of six items, as a Triton model repository of tiny ONNX graphs with the project's signatures.

Scores are simple enough to work out by hand: retrieval score = ``BASE[row] + purchases * TASTE[row]``, and the ranker
doubles it. ``purchases`` is the user's only float feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from recsys_plugin.features.contract import REQUEST_TIMESTAMP, Encoding, FeatureContract, FeatureSpec
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.runtime.triton_server import EmbeddedTriton

ITEM_IDS = ("tea", "cup", "pot", "mug", "jar", "box")
TITLES = ("Green tea", "Cup", "Tea pot", "Mug", "Jar", "Box – gift")
CATEGORIES = ("food", "kitchen", "kitchen", "kitchen", "", "gifts")
BRANDS = ("leaf", "clay", "clay", "clay", "", "glass")
PRICES = (2.5, 3.0, float("nan"), 4.0, 5.0, 6.0)
BASE = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=np.float32)
#: What is in the kitchen is alike.
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0.1], [0, 1, 0.2], [0, 0, 1], [1, 0, 1]], dtype=np.float32)
TASTE = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.5], dtype=np.float32)

CONTRACT = FeatureContract(
    (
        FeatureSpec("profile:purchases", "FLOAT", 0.0, max_age_seconds=3600),
        FeatureSpec("recent:item_ids", "STRING_LIST", -1, encoding=Encoding.ROW, length=2),
        FeatureSpec("profile:country", "STRING", "?"),
        FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
    ),
)

SCHEMA = {spec.reference: spec.dtype for spec in CONTRACT.stored_features} | {"item_stock:stock": "INT64"}

#: The moment that the shop's clock stands at; its users were written a minute before.
NOW = 1_700_000_000.0


@dataclass(frozen=True)
class TinyShop:
    redis_url: str
    """Logs in as the user that a shop's backend has (:mod:`recsys_plugin.security.acl`): may do what a client does."""
    operations_url: str
    """The same server for who runs ``recsys rules``, ``ads``, ``trial`` and ``users``."""
    admin_url: str
    """The same server for tests that look at, and change, what no client may."""
    triton_url: str
    write_user: Callable[[str, float, list[str]], None]
    """user id, purchases, recent items"""
    write_schema: Callable[[Mapping[str, str] | None], None]
    publish: Callable[..., None]
    """version, item ids, and how the version is made worse, see :func:`tiny_repository.write_repository`"""
    stop_triton: Callable[[], None]
    start_triton: Callable[[], None]
    redis: EmbeddedRedis
    triton: EmbeddedTriton
