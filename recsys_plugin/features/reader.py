"""Reading a plan's commands from Redis: one round trip for all users of a request, within its time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.features.connection import RedisAddress, named_errors, too_slow
from recsys_plugin.features.plan import ReadFeatures, ReadPromotion, ReadSchema, Reply
from recsys_plugin.limits import MOST_DOCUMENT_BYTES

if TYPE_CHECKING:
    import redis

__all__ = ["AsyncFeatureReader", "FeatureReader", "promotion_key", "schema_key", "sentinels"]

#: Up to so many replies, the time is looked at before each.
_USERS_AT_MOST = 64


def schema_key(project: str) -> str:
    """The Redis key under which ``recsys apply`` writes the feature types of a Feast project, as JSON."""
    return f"recsys:schema:{project}"


def promotion_key(project: str) -> str:
    """The Redis key that holds the promoted model version; without it the newest version serves."""
    return f"recsys:promoted:{project}"


class FeatureReader:
    """Reads feature hashes from Redis; safe to share between threads.

    Args:
        address: where Redis is.
        timeout: seconds for making a connection, and the most that any call may take.
    """

    def __init__(self, address: RedisAddress, *, timeout: float) -> None:
        self._address = address
        with named_errors(address, timeout):
            self._client: Any = address.connect(timeout)

    def read(self, read: ReadFeatures, *, timeout: float) -> list[Reply]:
        """The values of the fields in each key's hash; ``None`` for a field that is not there.

        Raises:
            DeadlineExceeded: if Redis takes longer than ``timeout`` seconds. (In a cluster the reader's own
                timeout counts when it is longer.)
            StoreUnavailable: if Redis cannot be reached or refuses.
        """
        with named_errors(self._address, timeout):
            if self._address.kind != "redis_cluster":
                return self._read_one_server(read, timeout)
            pipeline = self._client.pipeline(transaction=False)
            for key in read.keys:
                pipeline.hmget(key, read.fields)
            replies: list[Reply] = pipeline.execute()
            return replies

    def read_schema(self, read: ReadSchema, *, timeout: float) -> dict[str, str] | None:
        """The feature types that ``recsys apply`` recorded: reference → type name; ``None`` if it never ran.

        Raises:
            StoreUnavailable: if Redis cannot be reached or the record is malformed.
            DeadlineExceeded: if Redis takes too long.
        """
        with named_errors(self._address, timeout):
            text = self._client.get(schema_key(read.project))
        return _parsed_schema(text, read.project)

    def read_promotion(self, read: ReadPromotion, *, timeout: float) -> int | None:
        """The promoted model version, if one is.

        Raises:
            StoreUnavailable: if Redis cannot be reached or the record is malformed.
            DeadlineExceeded: if Redis takes too long.
        """
        with named_errors(self._address, timeout):
            text = self._client.get(promotion_key(read.project))
        return _parsed_promotion(text, read.project)

    def execute(self, commands: Iterable[Sequence[Any]], *, timeout: float) -> list[Any]:
        """Send any commands in one round trip; their replies, in order.

        Raises:
            StoreUnavailable: if Redis cannot be reached or refuses one; the others may have been carried out.
            DeadlineExceeded: if Redis takes too long.
        """
        with named_errors(self._address, timeout):
            sent = list(commands)
            if self._address.kind != "redis_cluster":
                return self._execute_on_one_server(sent, timeout)
            if len(sent) == 1:  # a cluster takes scripts in this way only
                return [self._client.execute_command(*sent[0])]
            pipeline = self._client.pipeline(transaction=False)
            for command in sent:
                pipeline.execute_command(*command)
            replies: list[Any] = pipeline.execute()
            return replies

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        for sentinel in sentinels(self._address, self._client):
            sentinel.close()

    def _read_one_server(self, read: ReadFeatures, timeout: float) -> list[Reply]:
        """All commands in one buffer, all replies awaited with one deadline.

        redis-py's pipelines know only the timeout fixed when the connection was made, so a call with less
        time would outstay it.
        """
        deadline = time.monotonic() + timeout
        with self._connection() as connection:
            connection.send_packed_command([_packed(read)])
            replies: list[Reply] = []
            # Looking at the time costs as much as a reply; of very many replies, one look in so many will do.
            step = 1 if len(read.keys) <= _USERS_AT_MOST else _USERS_AT_MOST
            for number in range(len(read.keys)):
                if number % step == 0:
                    self._await_reply(connection, deadline, timeout)
                replies.append(connection.read_response())
            return replies

    def _execute_on_one_server(self, commands: Sequence[Sequence[Any]], timeout: float) -> list[Any]:
        """The same for any commands, their replies in redis-py's form."""
        deadline = time.monotonic() + timeout
        with self._connection() as connection:
            connection.send_packed_command(connection.pack_commands(commands))
            replies: list[Any] = []
            for command in commands:
                self._await_reply(connection, deadline, timeout)
                replies.append(self._client.parse_response(connection, command[0]))
            return replies

    def _await_reply(self, connection: Any, deadline: float, timeout: float) -> None:
        if not connection.can_read(max(0.0, deadline - time.monotonic())):
            raise too_slow(self._address, timeout)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection of the pool; closed if not all of its replies were read, lest the next take them for theirs."""
        pool: redis.ConnectionPool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)


@lru_cache(maxsize=64)
def _around_the_key(fields: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """What comes before and after the key in the wire form of an HMGET: the same for every key of a plan."""
    before = b"*%d\r\n$5\r\nHMGET\r\n$" % (2 + len(fields))
    return before, b"\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(field), field) for field in fields)


def _packed(read: ReadFeatures) -> bytes:
    """All commands as Redis's protocol has them (RESP); redis-py's own packing handles every field of every key."""
    before, after = _around_the_key(tuple(read.fields))
    return b"".join([b"%b%d\r\n%b%b" % (before, len(key), key, after) for key in read.keys])


class AsyncFeatureReader:
    """The same for asyncio; belongs to the event loop that first reads with it."""

    def __init__(self, address: RedisAddress, *, timeout: float) -> None:
        self._address = address
        self._client: Any = address.connect_async(timeout)

    async def read(self, read: ReadFeatures, *, timeout: float) -> list[Reply]:
        """See :meth:`FeatureReader.read`; here the timeout holds for a cluster too."""
        with named_errors(self._address, timeout):
            async with asyncio.timeout(timeout):
                pipeline = self._client.pipeline(transaction=False)
                for key in read.keys:
                    pipeline.hmget(key, read.fields)
                replies: list[Reply] = await pipeline.execute()
                return replies

    async def read_schema(self, read: ReadSchema, *, timeout: float) -> dict[str, str] | None:
        """See :meth:`FeatureReader.read_schema`."""
        with named_errors(self._address, timeout):
            async with asyncio.timeout(timeout):
                text = await self._client.get(schema_key(read.project))
        return _parsed_schema(text, read.project)

    async def read_promotion(self, read: ReadPromotion, *, timeout: float) -> int | None:
        """See :meth:`FeatureReader.read_promotion`."""
        with named_errors(self._address, timeout):
            async with asyncio.timeout(timeout):
                text = await self._client.get(promotion_key(read.project))
        return _parsed_promotion(text, read.project)

    async def execute(self, commands: Iterable[Sequence[Any]], *, timeout: float) -> list[Any]:
        """See :meth:`FeatureReader.execute`."""
        with named_errors(self._address, timeout):
            async with asyncio.timeout(timeout):
                sent = list(commands)
                if len(sent) == 1:
                    return [await self._client.execute_command(*sent[0])]
                pipeline = self._client.pipeline(transaction=False)
                for command in sent:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute()
                return replies

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        for sentinel in sentinels(self._address, self._client):
            await sentinel.aclose()


def sentinels(address: RedisAddress, client: Any) -> list[Any]:
    """The clients that ask the sentinels for the master; closing the master's client leaves them open."""
    if address.sentinel_master is None:
        return []
    sentinels: list[Any] = client.connection_pool.sentinel_manager.sentinels
    return sentinels


def _parsed_promotion(text: bytes | None, project: str) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise StoreUnavailable(
            f"Redis key {promotion_key(project)} is {text!r}, not a version. Run `recsys models promote` again."
        )
    return int(text)


def _parsed_schema(text: bytes | None, project: str) -> dict[str, str] | None:
    if text is None:
        return None
    try:
        schema = json.loads(text) if len(text) <= MOST_DOCUMENT_BYTES else None
    except (ValueError, RecursionError) as error:
        raise StoreUnavailable(
            f"Redis key {schema_key(project)} is not JSON: {error}. Run `recsys apply` again."
        ) from error
    if not isinstance(schema, dict) or not all(isinstance(name, str) for name in schema.values()):
        raise StoreUnavailable(
            f"Redis key {schema_key(project)} is not a JSON object of type names. Run `recsys apply` again."
        )
    return schema
