"""Which items were written to the feature store: told by the server as it happens, or asked for where it cannot tell.

Redis and Valkey tell a client of every write to a key that begins with a prefix (``CLIENT TRACKING`` in broadcast mode,
redirected to a connection that listens to ``__redis__:invalidate``; Redis documentation, "Client-side caching").
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from recsys_plugin.features.codec import entity_key_prefix
from recsys_plugin.features.connection import RedisAddress, named_errors

__all__ = ["AsyncItemChanges", "ItemChanges", "ItemKeys"]

_log = logging.getLogger("recsys_plugin")

#: Where the server says which keys became invalid.
_CHANNEL = b"__redis__:invalidate"
#: Seconds between two looks at all keys, where the server cannot tell.
_POLL_SECONDS = 2.0
#: Seconds after which a silent connection is asked whether it is still there.
_CHECK_SECONDS = 5.0
#: Keys that the server goes through at once, during which it answers nobody: some tenths of a millisecond.
_KEYS_AT_ONCE = 1000


class ItemKeys:
    """The Redis keys of items, whose ids are strings.

    Args:
        project: the Feast project. join_key: of the item entity.
    """

    def __init__(self, project: str, join_key: str = "item_id") -> None:
        self.prefix = entity_key_prefix(join_key)
        self._suffix = project.encode()
        self._head = len(self.prefix) + 8

    def item_id(self, key: bytes) -> str | None:
        """The id in a key; ``None`` for a key that is no item of this project."""
        if not key.startswith(self.prefix) or not key.endswith(self._suffix):
            return None
        length = int.from_bytes(key[self._head - 4 : self._head], "little")
        if self._head + length + len(self._suffix) != len(key):
            return None
        try:
            return key[self._head : self._head + length].decode()
        except UnicodeDecodeError:
            return None

    def item_ids(self, keys: Iterable[bytes]) -> Iterator[str]:
        """The ids in keys, in order, as they are asked for."""
        return (item_id for key in keys if (item_id := self.item_id(key)) is not None)


def _told(reply: object) -> list[bytes]:
    """The keys of a message on :data:`_CHANNEL`; none for other messages, and for "everything was flushed"."""
    if isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message" and reply[1] == _CHANNEL:
        return [key for key in reply[2] or () if isinstance(key, bytes)]
    return []


def _say_that_it_polls(reason: object) -> None:
    _log.info("the server cannot tell of written items (%s); looks for new ones every %g s", reason, _POLL_SECONDS)


class ItemChanges:
    """Keys of written items, as they come; belongs to one thread. Call :meth:`close` in the end.

    Raises, from every method: StoreUnavailable or DeadlineExceeded if the server cannot be reached.
    """

    def __init__(self, address: RedisAddress, keys: ItemKeys, *, timeout: float) -> None:
        import redis

        self._address, self._keys, self._timeout = address, keys, timeout
        self._listener: Any = None
        self._tracker: Any = None
        self._seen: set[bytes] | None = None
        self._checked = time.monotonic()
        with named_errors(address, timeout):
            self._client: Any = address.connect(timeout)
            if address.kind == "redis_cluster":
                _say_that_it_polls("a cluster")
                self._seen = set()
                return
            try:
                self._track()
            except redis.ResponseError as error:
                self._let_go()
                _say_that_it_polls(error)
                self._seen = set()

    def _track(self) -> None:
        self._listener = self._client.connection_pool.get_connection()
        self._listener.send_command("CLIENT", "ID")
        listener = self._listener.read_response()
        self._listener.send_command("SUBSCRIBE", _CHANNEL)
        self._listener.read_response()
        self._tracker = self._client.connection_pool.get_connection()
        options = ("ON", "REDIRECT", listener, "BCAST", "PREFIX", self._keys.prefix)
        self._tracker.send_command("CLIENT", "TRACKING", *options)
        self._tracker.read_response()

    @property
    def polls(self) -> bool:
        """Whether the server cannot tell: what was not there at the last look at everything counts as written."""
        return self._seen is not None

    def everything(self) -> list[bytes]:
        """The keys of all items that there are."""
        with named_errors(self._address, self._timeout):
            found = list(self._client.scan_iter(match=_pattern(self._keys.prefix), count=_KEYS_AT_ONCE))
        if self._seen is not None:
            self._seen.update(found)
        return found

    def wait(self, seconds: float) -> list[bytes]:
        """The keys written since the last call, after so many seconds at most; empty if there are none."""
        if self._seen is not None:
            return self._poll(seconds)
        keys: list[bytes] = []
        with named_errors(self._address, self._timeout):
            while self._listener.can_read(0 if keys else seconds):
                keys += _told(self._listener.read_response())
            if time.monotonic() - self._checked > _CHECK_SECONDS:
                # Were this connection gone, the server would have stopped telling, in silence.
                self._tracker.send_command("PING")
                self._tracker.read_response()
                self._checked = time.monotonic()
        return keys

    def _poll(self, seconds: float) -> list[bytes]:
        time.sleep(min(seconds, _POLL_SECONDS))
        if time.monotonic() - self._checked < _POLL_SECONDS:
            return []
        seen = self._seen or set()
        before = set(seen)
        self._checked = time.monotonic()
        return [key for key in self.everything() if key not in before]

    def _let_go(self) -> None:
        for connection in (self._listener, self._tracker):
            if connection is not None:
                connection.disconnect()
                self._client.connection_pool.release(connection)
        self._listener = self._tracker = None

    def close(self) -> None:
        """Close every connection; the server then tells no more."""
        self._let_go()
        self._client.close()


class AsyncItemChanges:
    """:class:`ItemChanges` for asyncio; belongs to the event loop that opens it."""

    def __init__(self, address: RedisAddress, keys: ItemKeys, *, timeout: float) -> None:
        self._address, self._keys, self._timeout = address, keys, timeout
        self._client: Any = address.connect_async(timeout)
        self._listener: Any = None
        self._tracker: Any = None
        self._seen: set[bytes] | None = None
        self._checked = time.monotonic()

    async def open(self) -> None:
        """Start listening."""
        import redis

        with named_errors(self._address, self._timeout):
            if self._address.kind == "redis_cluster":
                _say_that_it_polls("a cluster")
                self._seen = set()
                return
            try:
                await self._track()
            except redis.ResponseError as error:
                await self._let_go()
                _say_that_it_polls(error)
                self._seen = set()

    async def _track(self) -> None:
        self._listener = await self._client.connection_pool.get_connection()
        await self._listener.send_command("CLIENT", "ID")
        listener = await self._listener.read_response()
        await self._listener.send_command("SUBSCRIBE", _CHANNEL)
        await self._listener.read_response()
        self._tracker = await self._client.connection_pool.get_connection()
        options = ("ON", "REDIRECT", listener, "BCAST", "PREFIX", self._keys.prefix)
        await self._tracker.send_command("CLIENT", "TRACKING", *options)
        await self._tracker.read_response()

    @property
    def polls(self) -> bool:
        """See :meth:`ItemChanges.polls`."""
        return self._seen is not None

    async def everything(self) -> list[bytes]:
        """See :meth:`ItemChanges.everything`."""
        with named_errors(self._address, self._timeout):
            pattern = _pattern(self._keys.prefix)
            found = [key async for key in self._client.scan_iter(match=pattern, count=_KEYS_AT_ONCE)]
        if self._seen is not None:
            self._seen.update(found)
        return found

    async def wait(self, seconds: float) -> list[bytes]:
        """See :meth:`ItemChanges.wait`."""
        if self._seen is not None:
            return await self._poll(seconds)
        keys: list[bytes] = []
        with named_errors(self._address, self._timeout):
            # A reply of None says that the time is over; 0 would mean that there is no limit.
            while (reply := await self._listener.read_response(timeout=0.001 if keys else seconds)) is not None:
                keys += _told(reply)
            if time.monotonic() - self._checked > _CHECK_SECONDS:
                await self._tracker.send_command("PING")
                await self._tracker.read_response()
                self._checked = time.monotonic()
        return keys

    async def _poll(self, seconds: float) -> list[bytes]:
        await asyncio.sleep(min(seconds, _POLL_SECONDS))
        if time.monotonic() - self._checked < _POLL_SECONDS:
            return []
        before = set(self._seen or ())
        self._checked = time.monotonic()
        return [key for key in await self.everything() if key not in before]

    async def _let_go(self) -> None:
        for connection in (self._listener, self._tracker):
            if connection is not None:
                await connection.disconnect(nowait=True)  # no cancellation comes between
                await self._client.connection_pool.release(connection)
        self._listener = self._tracker = None

    async def close(self) -> None:
        """See :meth:`ItemChanges.close`."""
        await self._let_go()
        await self._client.aclose()


def _pattern(prefix: bytes) -> bytes:
    """The prefix as a pattern of SCAN, its special characters escaped."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in prefix) + b"*"
