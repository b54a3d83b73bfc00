"""Appending to streams: all entries in one buffer to the socket, all replies within one deadline."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Iterable
from typing import Any

from recsys_plugin.events.calls import Appended, AppendEvents
from recsys_plugin.features.cluster_calls import AsyncClusterCalls, ClusterCalls
from recsys_plugin.features.connecting import (
    DEFAULT_RETRY,
    ONE_CALLER,
    async_connection_set,
    connection_set,
    own_timeout,
    patience,
)
from recsys_plugin.features.connection import RedisAddress, named_errors, too_slow
from recsys_plugin.features.reader import sentinels

__all__ = ["AsyncEventTransport", "EventTransport"]

#: Seconds by which the server gives up waiting before we do, so that its answer "nothing came" still arrives.
_MARGIN = 0.05


class EventTransport:
    """Writes entries; safe to share between threads.

    Args:
        address: where Redis is.
        timeout: seconds for making a connection, and the most that any call takes without ``timeout``.
    """

    def __init__(self, address: RedisAddress, *, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        allowed, cluster = own_timeout(timeout), address.kind == "redis_cluster"
        self._patience = patience(allowed)
        with named_errors(address, timeout):
            self._client: Any = address.connect(allowed.total if cluster else allowed.connect)
        self._cluster = ClusterCalls(address, DEFAULT_RETRY, self._patience) if cluster else None
        self._connections = connection_set(address, self._client, allowed, ONE_CALLER, DEFAULT_RETRY)
        weakref.finalize(self, self._connections.end)

    def append(self, call: AppendEvents, *, timeout: float) -> Appended:
        """Append all entries; with ``reply``, wait for the worker's answer until the time is over.

        In a cluster the transport's own timeout counts when it is shorter.

        Raises:
            DeadlineExceeded: if Redis does not acknowledge within ``timeout`` seconds; it may do so later.
            StoreUnavailable: if Redis cannot be reached or refuses.
        """
        if self._cluster is not None:
            return self._cluster.perform(lambda: self._append_cluster(call, timeout), timeout + _MARGIN)
        with named_errors(self._address, timeout):
            return self._append_one_server(call, timeout)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()
        if self._cluster is not None:
            self._cluster.close()
        self._client.close()
        for sentinel in sentinels(self._address, self._client):
            sentinel.close()

    def _append_cluster(self, call: AppendEvents, timeout: float) -> Appended:
        import redis

        deadline = time.monotonic() + timeout
        pipeline = self._client.pipeline(transaction=False)
        for words in _commands(call):
            # A cluster's pipeline looks the command's name up as text.
            pipeline.execute_command("XADD", *words[1:])
        pipeline.execute()
        if call.reply is None:
            return Appended()
        patient = _patience(deadline - time.monotonic(), self._timeout)
        try:
            return Appended(_first(self._client.blpop([call.reply[1]], timeout=patient)))
        except (redis.RedisError, OSError) as error:
            return Appended(lost=str(error))

    def _append_one_server(self, call: AppendEvents, timeout: float) -> Appended:
        import redis

        deadline = time.monotonic() + timeout
        wire, acknowledged = self._connections.take(deadline, counts=timeout >= self._patience), False
        try:
            # The wait goes out with the entry: no further round trip when the worker is quick.
            wire.send(_packed([*_commands(call), *_wait(call, timeout)]), deadline)
            refused: redis.ResponseError | None = None
            for _ in call.entries:
                try:
                    wire.read(deadline)
                except redis.ResponseError as error:
                    refused = refused or error
            if refused is not None:
                raise refused
            acknowledged = True
            answer = Appended() if call.reply is None else Appended(_first(wire.read(deadline + _MARGIN)))
        except BaseException as error:
            self._connections.give_up(wire, *_told(error, acknowledged, timeout >= self._patience))
            if acknowledged and isinstance(error, redis.RedisError | OSError):
                return Appended(lost=_reason(error, self._address, timeout))
            raise
        self._connections.give_back(wire)
        return answer


class AsyncEventTransport:
    """The same for asyncio; belongs to the event loop that first writes with it."""

    def __init__(self, address: RedisAddress, *, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        allowed, cluster = own_timeout(timeout), address.kind == "redis_cluster"
        self._patience = patience(allowed)
        self._client: Any = address.connect_async(allowed.total if cluster else allowed.connect)
        self._cluster = AsyncClusterCalls(address, DEFAULT_RETRY, self._patience) if cluster else None
        self._connections = async_connection_set(address, self._client, allowed, ONE_CALLER, DEFAULT_RETRY)

    async def append(self, call: AppendEvents, *, timeout: float) -> Appended:
        """See :meth:`EventTransport.append`."""
        import redis

        if self._cluster is None:
            with named_errors(self._address, timeout):
                return await self._append_one_server(call, timeout)
        deadline = time.monotonic() + timeout
        await self._cluster.perform(lambda: self._append_cluster(call), timeout)
        if call.reply is None:
            return Appended()
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left) + _MARGIN):
                patient = _patience(left, self._timeout)
                return Appended(_first(await self._client.blpop([call.reply[1]], timeout=patient)))
        except (redis.RedisError, TimeoutError, OSError) as error:
            return Appended(lost=str(error))

    async def _append_cluster(self, call: AppendEvents) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for words in _commands(call):
            # A cluster's pipeline looks the command's name up as text.
            pipeline.execute_command("XADD", *words[1:])
        await pipeline.execute()

    async def _append_one_server(self, call: AppendEvents, timeout: float) -> Appended:
        import redis

        deadline = time.monotonic() + timeout
        wire, acknowledged = await self._connections.take(deadline, counts=timeout >= self._patience), False
        try:
            refused: redis.ResponseError | None = None
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await wire.send(_packed([*_commands(call), *_wait(call, timeout)]))
                for _ in call.entries:
                    try:
                        await wire.read()
                    except redis.ResponseError as error:
                        refused = refused or error
            if refused is not None:
                raise refused
            acknowledged = True
            answer = Appended()
            if call.reply is not None:
                async with asyncio.timeout(max(0.0, deadline + _MARGIN - time.monotonic())):
                    answer = Appended(_first(await wire.read()))
        except BaseException as error:
            await self._connections.give_up(wire, *_told(error, acknowledged, timeout >= self._patience))
            if acknowledged and isinstance(error, redis.RedisError | OSError):
                return Appended(lost=_reason(error, self._address, timeout))
            raise
        await self._connections.give_back(wire)
        return answer

    async def close(self) -> None:
        """Close every connection."""
        await self._connections.close()
        await self._client.aclose()
        for sentinel in sentinels(self._address, self._client):
            await sentinel.aclose()


def _told(error: BaseException, acknowledged: bool, patient: bool) -> tuple[BaseException | None, bool]:
    """What the connections are told of a failed call: the error, if the server did not answer, and whether it counts
    against the server."""
    import redis

    if isinstance(error, redis.ResponseError):
        return None, False
    if not isinstance(error, redis.RedisError | OSError):
        return error, False
    return error, not acknowledged and (patient or not isinstance(error, TimeoutError))


def _reason(error: BaseException, address: RedisAddress, timeout: float) -> str:
    return str(too_slow(address, timeout)) if isinstance(error, TimeoutError) else str(error)


def _patience(timeout: float, most: float) -> float:
    """Seconds that the server is to wait, such that its answer "nothing came" arrives in time."""
    return max(_MARGIN, min(timeout, most) - _MARGIN)


def _commands(call: AppendEvents) -> list[tuple[bytes, ...]]:
    token = None if call.reply is None else call.reply[0]
    return [entry.command(token) for entry in call.entries]


def _wait(call: AppendEvents, timeout: float) -> list[tuple[bytes, ...]]:
    if call.reply is None:
        return []
    return [(b"BLPOP", call.reply[1].encode(), b"%.3f" % max(0.001, timeout - _MARGIN))]


def _packed(commands: Iterable[tuple[bytes, ...]]) -> bytes:
    """Commands as Redis's protocol has them (RESP)."""
    return b"".join(
        b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
        for words in commands
    )


def _first(reply: Any) -> bytes | None:
    """What was on the list; ``None`` if nothing came."""
    return None if reply is None else bytes(reply[1])
