"""What Feast's Redis store needs from outside so that materialising corrected rows takes effect."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from recsys_plugin.features.codec import entity_key_prefix, timestamp_field

__all__ = ["admit_equal_timestamps"]

# A push may come in between, and its event time must stay.
_COMPARE_AND_SET = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
"""
_TICK = timedelta(microseconds=1)


def admit_equal_timestamps(client: Any, view: str, *, join_key: str, project: str) -> int:
    """Make every stored row of a view a microsecond older, values untouched; the number of rows.

    Feast drops a write in silence unless its event time is later than the stored one. A row that was computed anew
    (corrected data, a changed definition) has the same event time, so without this the store would keep the old values
    and models would be served other features than they were trained on. A row pushed later than the new one still wins.

    Args:
        client: a redis-py client. view: the feature view. join_key: of the view's entity. project: Feast's project.
    """
    field, prefix, suffix = timestamp_field(view), entity_key_prefix(join_key), project.encode()
    rows = 0
    for key in client.scan_iter(match=prefix + b"*" + suffix, count=1000):
        stored = client.hget(key, field)
        if stored is None:
            continue
        stamp = Timestamp.FromString(stored)
        stamp.FromDatetime(stamp.ToDatetime() - _TICK)
        client.eval(_COMPARE_AND_SET, 1, key, field, stored, stamp.SerializeToString())
        rows += 1
    return rows
