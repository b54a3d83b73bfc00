"""From a user id to the packed feature tensors: contract, Feast's Redis layout, read plan, connections; and rows back.

Thin: numpy and redis only, and redis only when a connection is made. ``encoding``, which turns whole Arrow columns into
Feast's layout, needs pyarrow as well; ``writer`` imports it for batches, not for single rows.
"""

from __future__ import annotations

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec, Slot, TensorName

__all__ = ["Encoding", "FeatureContract", "FeatureSpec", "RedisAddress", "Slot", "TensorName"]
