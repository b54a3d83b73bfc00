"""Appending to streams: all entries in one buffer to the socket, all replies within one deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from recsys_plugin.errors import RecsysError
from recsys_plugin.events.calls import Appended, AppendEvents
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
        with named_errors(address, timeout):
            self._client: Any = address.connect(timeout)

    def append(self, call: AppendEvents, *, timeout: float) -> Appended:
        """Append all entries; with ``reply``, wait for the worker's answer until the time is over.

        In a cluster the transport's own timeout counts when it is shorter.

        Raises:
            DeadlineExceeded: if Redis does not acknowledge within ``timeout`` seconds; it may do so later.
            StoreUnavailable: if Redis cannot be reached or refuses.
        """
        import redis

        with named_errors(self._address, timeout):
            if self._address.kind == "redis_cluster":
                pipeline = self._client.pipeline(transaction=False)
                for words in _commands(call):
                    # A cluster's pipeline looks the command's name up as text.
                    pipeline.execute_command("XADD", *words[1:])
                pipeline.execute()
                if call.reply is None:
                    return Appended()
                try:
                    return Appended(
                        _first(self._client.blpop([call.reply[1]], timeout=_patience(timeout, self._timeout)))
                    )
                except (redis.RedisError, OSError) as error:
                    return Appended(lost=str(error))
            return self._append_one_server(call, timeout)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        for sentinel in sentinels(self._address, self._client):
            sentinel.close()

    def _append_one_server(self, call: AppendEvents, timeout: float) -> Appended:
        import redis

        deadline = time.monotonic() + timeout
        pool: redis.ConnectionPool = self._client.connection_pool
        connection = pool.get_connection()
        whole = False
        try:
            # The wait goes out with the entry: no further round trip when the worker is quick.
            connection.send_packed_command([_packed([*_commands(call), *_wait(call, timeout)])])
            refused: redis.ResponseError | None = None
            for _ in call.entries:
                try:
                    self._read(connection, deadline, timeout)
                except redis.ResponseError as error:
                    refused = refused or error
            whole = call.reply is None
            if refused is not None:
                raise refused
            if call.reply is None:
                return Appended()
            try:
                reply = self._read(connection, deadline + _MARGIN, timeout)
            except (RecsysError, redis.RedisError, OSError) as error:
                return Appended(lost=str(error))
            whole = True
            return Appended(_first(reply))
        finally:
            if not whole:
                # Replies may still be under way; whoever came next would take them for theirs.
                connection.disconnect()
            pool.release(connection)

    def _read(self, connection: Any, deadline: float, timeout: float) -> Any:
        if not connection.can_read(max(0.0, deadline - time.monotonic())):
            raise too_slow(self._address, timeout)
        return connection.read_response()


class AsyncEventTransport:
    """The same for asyncio; belongs to the event loop that first writes with it."""

    def __init__(self, address: RedisAddress, *, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        self._client: Any = address.connect_async(timeout)

    async def append(self, call: AppendEvents, *, timeout: float) -> Appended:
        """See :meth:`EventTransport.append`."""
        import redis

        with named_errors(self._address, timeout):
            if self._address.kind != "redis_cluster":
                return await self._append_one_server(call, timeout)
            async with asyncio.timeout(timeout):
                pipeline = self._client.pipeline(transaction=False)
                for words in _commands(call):
                    # A cluster's pipeline looks the command's name up as text.
                    pipeline.execute_command("XADD", *words[1:])
                await pipeline.execute()
                if call.reply is None:
                    return Appended()
            try:
                async with asyncio.timeout(timeout):
                    return Appended(
                        _first(await self._client.blpop([call.reply[1]], timeout=_patience(timeout, self._timeout)))
                    )
            except (redis.RedisError, TimeoutError, OSError) as error:
                return Appended(lost=str(error))

    async def _append_one_server(self, call: AppendEvents, timeout: float) -> Appended:
        import redis

        deadline = time.monotonic() + timeout
        pool = self._client.connection_pool
        async with asyncio.timeout(timeout):
            connection = await pool.get_connection()
        whole = False
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await connection.send_packed_command([_packed([*_commands(call), *_wait(call, timeout)])])
            refused: redis.ResponseError | None = None
            for _ in call.entries:
                try:
                    await self._read(connection, deadline, timeout)
                except redis.ResponseError as error:
                    refused = refused or error
            whole = call.reply is None
            if refused is not None:
                raise refused
            if call.reply is None:
                return Appended()
            try:
                reply = await self._read(connection, deadline + _MARGIN, timeout)
            except (RecsysError, redis.RedisError, OSError) as error:
                return Appended(lost=str(error))
            whole = True
            return Appended(_first(reply))
        finally:
            if not whole:
                await connection.disconnect()
            await pool.release(connection)

    async def _read(self, connection: Any, deadline: float, timeout: float) -> Any:
        # Not redis-py's own timeout: its None could as well be an answer.
        left = max(0.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left):
                return await connection.read_response(timeout=left + 1.0)
        except TimeoutError as error:
            raise too_slow(self._address, timeout) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        for sentinel in sentinels(self._address, self._client):
            await sentinel.aclose()


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
