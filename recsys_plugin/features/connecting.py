"""How the connections of a :class:`~recsys_plugin.features.connection_set.ConnectionSet` to an address are made."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.connection_set import AsyncConnectionSet, ConnectionSet
from recsys_plugin.features.wire import AsyncWire, Wire
from recsys_plugin.resilience.values import Limits, Retry, Timeout

__all__ = ["DEFAULT_RETRY", "ONE_CALLER", "async_connection_set", "connection_set", "own_timeout", "patience"]

#: Limits of what reads or writes for one caller.
ONE_CALLER = Limits(ready=1)
DEFAULT_RETRY = Retry()

_PING = b"*1\r\n$4\r\nPING\r\n"
#: A call that was given less time than this and did not make it says nothing of the server.
_PATIENCE = 0.05
#: Part of the usual time from which on a call counts as one that had enough.
_NEARLY = 0.9
#: Seconds within which a server that is asked whether it is back must answer, at least and at most.
_CHECK_LEAST, _CHECK_MOST = 0.005, 1.0


def own_timeout(timeout: float | Timeout) -> Timeout:
    """The timeout of one who reads and does nothing else; seconds are for connecting, too, if more than one."""
    if isinstance(timeout, Timeout):
        return timeout
    return Timeout(timeout, features=1.0, connect=max(1.0, timeout))


def patience(timeout: Timeout) -> float:
    """Seconds from which on a call without an answer counts against the server."""
    return min(_NEARLY * timeout.features_seconds, _PATIENCE)


def connection_set(address: RedisAddress, client: Any, timeout: Timeout, limits: Limits, retry: Retry) -> ConnectionSet:
    """Connections as redis-py's ``client`` makes them."""

    def make(until: float) -> Wire:
        pool = client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            connection.connect()
            return Wire(connection, until)
        except BaseException:
            connection.disconnect()
            raise

    def check(wire: Wire) -> None:
        from redis.exceptions import NoPermissionError

        deadline = time.monotonic() + _check_seconds(timeout)
        wire.send(_PING, deadline)
        with contextlib.suppress(NoPermissionError):  # an answer, too
            wire.read(deadline)

    return ConnectionSet(repr(address), make, check, limits, retry)


def async_connection_set(
    address: RedisAddress, client: Any, timeout: Timeout, limits: Limits, retry: Retry
) -> AsyncConnectionSet:
    """The same for asyncio."""

    async def make(until: float) -> AsyncWire:
        pool = client.connection_pool
        connection = pool.connection_class(**pool.connection_kwargs)
        try:
            # However many steps there are, looking the name up among them.
            async with asyncio.timeout(timeout.connect):
                await connection.connect()
            return AsyncWire(connection, until)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def check(wire: AsyncWire) -> None:
        from redis.exceptions import NoPermissionError

        async with asyncio.timeout(_check_seconds(timeout)):
            await wire.send(_PING)
            with contextlib.suppress(NoPermissionError):
                await wire.read()

    return AsyncConnectionSet(repr(address), make, check, limits, retry)


def _check_seconds(timeout: Timeout) -> float:
    """How quickly a server must answer to count as back: as quickly as requests want it."""
    return min(max(timeout.features_seconds, _CHECK_LEAST), _CHECK_MOST)
