"""Reading the same features of many entities at once, as columns: what a catalogue or a batch of candidates needs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.errors import FeatureContractError, InvalidInput, StoreUnavailable
from recsys_plugin.features.codec import (
    MalformedValueError,
    decode_timestamp,
    entity_key_prefix,
    entity_key_value,
    hash_field,
    timestamp_field,
)
from recsys_plugin.features.columns import Column, decode_column
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import DTYPES
from recsys_plugin.features.plan import ReadFeatures, Reply
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.limits import MOST_ENTITIES

__all__ = ["BulkReader"]

#: Entities of one round trip: the server answers the first of them while the client still asks for others.
_ENTITIES_AT_ONCE = 2000


class BulkReader:
    """Reads some features of many entities straight from Feast's Redis layout; a context manager.

    One HMGET per entity, all in one buffer; the replies become one column per feature. Safe to share between threads.

    Args:
        address: where Redis is.
        features: ``view:feature`` → its Feast type, one of :data:`~recsys_plugin.features.contract.DTYPES`.
        project: Feast's project.
        join_key: the name of the entities' key.
        timeout: seconds for making a connection, and the most that any call may take.

    Raises:
        InvalidInput: if there is no feature, or a type that cannot be read.
        FeatureContractError: if two features have one hash field: neither could be trusted.
    """

    def __init__(
        self, address: RedisAddress, features: Mapping[str, str], *, project: str, join_key: str, timeout: float
    ) -> None:
        if not features:
            raise InvalidInput("features: none is named, so there is nothing to read")
        for reference, dtype in features.items():
            if dtype not in DTYPES:
                raise InvalidInput(f"{reference}: {dtype!r} is not one of {', '.join(sorted(DTYPES))}")
        self.features = dict(features)
        #: The views that the features belong to.
        self.views = tuple(dict.fromkeys(reference.partition(":")[0] for reference in features))
        names: dict[bytes, str] = {}
        for reference in features:
            if (other := names.setdefault(hash_field(reference), reference)) != reference:
                raise FeatureContractError(
                    f"{other} and {reference} have one hash field in Feast's Redis layout, so one overwrites the "
                    "other. Rename one of them and run `recsys apply`."
                )
        self._fields = (*names, *(timestamp_field(view) for view in self.views))
        self._prefix, self._suffix = entity_key_prefix(join_key), project.encode()
        self._reader = FeatureReader(address, timeout=timeout)

    def read(self, entity_ids: Sequence[str | int], *, timeout: float) -> dict[str, Column]:
        """The features of n entities, in order; reference → column.

        Absent entities have every value missing. How old a value may be is the caller's to judge: see
        :meth:`read_with_times`.

        Raises:
            InvalidInput: if there are more than :data:`~recsys_plugin.limits.MOST_ENTITIES`.
            DeadlineExceeded: if Redis takes longer than ``timeout`` seconds.
            StoreUnavailable: if Redis cannot be reached or refuses, or a value is corrupt, or a list too long.
            FeatureContractError: if a value has another type than was said.
        """
        return self._columns(self._replies(entity_ids, self._fields[: len(self.features)], timeout))

    def read_with_times(
        self, entity_ids: Sequence[str | int], *, timeout: float
    ) -> tuple[dict[str, Column], dict[str, NDArray[np.float64]]]:
        """:meth:`read`, and view → event times in unix seconds ``[n]``, NaN where the view was never written."""
        replies = self._replies(entity_ids, self._fields, timeout)
        times: dict[str, NDArray[np.float64]] = {}
        for position, view in enumerate(self.views, start=len(self.features)):
            stored = [reply[position] for reply in replies]
            try:
                times[view] = np.array([np.nan if data is None else decode_timestamp(data) for data in stored])
            except MalformedValueError as error:
                raise StoreUnavailable(f"an event time of {view} is corrupt in Redis: {error}") from error
        return self._columns(replies), times

    def close(self) -> None:
        """Close every connection."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _replies(self, entity_ids: Sequence[str | int], fields: Sequence[bytes], timeout: float) -> list[Reply]:
        if len(entity_ids) > MOST_ENTITIES:
            raise InvalidInput(f"entity_ids: {len(entity_ids):,}, at most {MOST_ENTITIES:,} are allowed in one call")
        deadline = time.monotonic() + timeout
        prefix, suffix = self._prefix, self._suffix
        replies: list[Reply] = []
        for start in range(0, len(entity_ids), _ENTITIES_AT_ONCE):
            some = entity_ids[start : start + _ENTITIES_AT_ONCE]
            keys = [prefix + entity_key_value(entity_id) + suffix for entity_id in some]
            left = max(0.0, deadline - time.monotonic())
            replies += self._reader.read(ReadFeatures(keys, fields), timeout=left)
        return replies

    def _columns(self, replies: list[Reply]) -> dict[str, Column]:
        columns = zip(*replies, strict=True) if replies else ((),) * len(self.features)
        return {
            reference: decode_column(reference, dtype, stored)
            for (reference, dtype), stored in zip(self.features.items(), columns, strict=False)
        }
