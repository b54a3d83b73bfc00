"""One open connection to Redis, used with a moment at which it must be done.

redis-py connects and logs in (TCP, TLS, unix socket, sentinel, ACL); from then on the socket is read here, because
redis-py starts its timeout anew with every piece that arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["AsyncWire", "Wire"]

_READ_SIZE = 65536
_NOT_ENOUGH = object()
_CLOSED = "the server closed the connection"


def _reply_reader() -> Any:
    """A parser of replies whose error replies are redis-py's exceptions."""
    import hiredis
    from redis import InvalidResponse
    from redis._parsers import BaseParser

    return hiredis.Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error, notEnoughData=_NOT_ENOUGH)


class Wire:
    """A blocking connection; belongs to one thread at a time.

    Raises, from every method that waits:
        TimeoutError: at the deadline, a moment of ``time.monotonic``.
        redis.ConnectionError, OSError: if the connection is broken.

    Args:
        connection: of redis-py, connected and logged in.
        until: the moment from which on it should be replaced.
    """

    def __init__(self, connection: Any, until: float) -> None:
        self.until = until
        self._connection = connection
        self._socket: socket.socket = connection._sock
        self._reader = _reply_reader()
        self._buffer = bytearray(_READ_SIZE)
        self._look = select.poll()
        self._look.register(self._socket, select.POLLIN)

    def is_sound(self) -> bool:
        """Whether the server has not hung up, and nothing lies there that nobody asked for."""
        if not self._look.poll(0):
            return True
        try:
            # Under TLS, what lies there may be no data: a new session ticket, say.
            self._socket.settimeout(0.0)
            self._socket.recv(1)
        except (BlockingIOError, TimeoutError):
            return True
        except OSError as error:
            return type(error).__name__ == "SSLWantReadError"
        return False

    def packed(self, commands: Iterable[Sequence[Any]]) -> bytes:
        """Commands in the form of Redis's protocol, their words encoded as redis-py does."""
        return b"".join(self._connection.pack_commands(commands))

    def send(self, packed: bytes, deadline: float) -> None:
        """Send commands in the form of Redis's protocol."""
        self._wait_no_longer_than(deadline)
        self._socket.sendall(packed)

    def read(self, deadline: float) -> Any:
        """The next reply.

        Raises:
            redis.RedisError: if that is an error.
        """
        import redis

        while (reply := self._reader.gets()) is _NOT_ENOUGH:
            self._wait_no_longer_than(deadline)
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise redis.ConnectionError(_CLOSED)
            self._reader.feed(self._buffer, 0, count)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        """Close the socket."""
        self._connection.disconnect()

    def abort(self) -> None:
        """Hang up, from whatever thread: who waits for a reply learns that there will be none."""
        with contextlib.suppress(OSError):
            # Of the socket itself: TLS would wait for the other side.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _wait_no_longer_than(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


class AsyncWire:
    """The same for asyncio; the caller limits the time, with ``asyncio.timeout``."""

    def __init__(self, connection: Any, until: float) -> None:
        self.until = until
        self._connection = connection
        self._stream: asyncio.StreamReader = connection._reader
        self._writer: asyncio.StreamWriter = connection._writer
        self._reader = _reply_reader()

    def is_sound(self) -> bool:
        """Whether the server has not hung up, as far as the event loop has noticed."""
        return not self._stream.at_eof() and not self._writer.is_closing() and self._stream.exception() is None

    def packed(self, commands: Iterable[Sequence[Any]]) -> bytes:
        """See :meth:`Wire.packed`."""
        return b"".join(self._connection.pack_commands(commands))

    async def send(self, packed: bytes) -> None:
        """See :meth:`Wire.send`."""
        self._writer.write(packed)
        await self._writer.drain()

    async def read(self) -> Any:
        """See :meth:`Wire.read`."""
        import redis

        while (reply := self._reader.gets()) is _NOT_ENOUGH:
            piece = await self._stream.read(_READ_SIZE)
            if not piece:
                raise redis.ConnectionError(_CLOSED)
            self._reader.feed(piece)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close(self) -> None:
        """Close the socket, without waiting for the server to agree."""
        await self._connection.disconnect(nowait=True)
