"""From a user id to the packed feature tensors: contract, Feast's Redis layout, read plan, connections.

Thin: numpy and redis only, and redis only when a connection is made.
"""

from __future__ import annotations

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import Encoding, FeatureContract, FeatureSpec, Slot, TensorName

__all__ = ["Encoding", "FeatureContract", "FeatureSpec", "RedisAddress", "Slot", "TensorName"]
