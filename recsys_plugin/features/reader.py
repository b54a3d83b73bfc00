"""Reading a plan's commands from Redis: one round trip for all users of a request, within its time."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from recsys_plugin.features.cluster_calls import AsyncClusterCalls, ClusterCalls
from recsys_plugin.features.connecting import (
    DEFAULT_RETRY,
    ONE_CALLER,
    async_connection_set,
    connection_set,
    own_timeout,
    patience,
)
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.features.plan import ReadFeatures, ReadPromotion, ReadSchema, Reply
from recsys_plugin.features.requests import (
    in_clients_form,
    packed_reads,
    parsed_promotion,
    parsed_schema,
    promotion_key,
    schema_key,
)
from recsys_plugin.features.wire import AsyncWire, Wire
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.values import Limits, Retry, Timeout

__all__ = ["AsyncFeatureReader", "FeatureReader", "sentinels"]

_Answer = TypeVar("_Answer")


class FeatureReader:
    """Reads feature hashes from Redis; safe to share between threads.

    No call outlives its time, whatever the server does: requests never connect, look names up or log in, see
    :mod:`recsys_plugin.features.connection_set`. A server that is known to be away is not asked.

    Args:
        address: where Redis is.
        timeout: what a call takes as a rule, by which is judged whether a server that is asked whether it is back is
            quick enough; and the seconds for making a connection (as seconds: one, or as many if more).
        limits, retry: see there.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        timeout: float | Timeout,
        limits: Limits = ONE_CALLER,
        retry: Retry = DEFAULT_RETRY,
    ) -> None:
        self._address, self._retry = address, retry
        allowed = own_timeout(timeout)
        self._patience = patience(allowed)
        cluster = address.kind == "redis_cluster"
        with named_errors(address, allowed.connect):
            self._client: Any = address.connect(allowed.total if cluster else allowed.connect)
        self._cluster = ClusterCalls(address, retry, self._patience) if cluster else None
        self._connections = connection_set(address, self._client, allowed, limits, retry)
        weakref.finalize(self, self._connections.end)

    @property
    def breaker(self) -> CircuitBreaker:
        """Whether Redis is known to be away."""
        return self._connections.breaker if self._cluster is None else self._cluster.breaker

    def begin(self) -> None:
        """Make the first connections, beside what the caller does meanwhile."""
        if self._cluster is None:
            self._connections.begin()

    def read(self, read: ReadFeatures, *, timeout: float) -> list[Reply]:
        """The values of the fields in each key's hash; ``None`` for a field that is not there.

        Raises:
            DeadlineExceeded: if Redis takes longer than ``timeout`` seconds.
            StoreUnavailable: if Redis cannot be reached or refuses.
            Overloaded: if no connection became free in time.
        """
        if self._cluster is not None:
            return self._cluster.perform(lambda: self._read_cluster(read), timeout)
        packed, count = packed_reads(read), len(read.keys)

        def ask(wire: Wire, deadline: float) -> list[Reply]:
            wire.send(packed, deadline)
            return [wire.read(deadline) for _ in range(count)]

        return self._ask(ask, timeout)

    def read_schema(self, read: ReadSchema, *, timeout: float) -> dict[str, str] | None:
        """The feature types that ``recsys apply`` recorded: reference → type name; ``None`` if it never ran.

        Raises:
            StoreUnavailable: if Redis cannot be reached or the record is malformed.
            DeadlineExceeded: if Redis takes too long.
        """
        return parsed_schema(self._get(schema_key(read.project), timeout), read.project)

    def read_promotion(self, read: ReadPromotion, *, timeout: float) -> int | None:
        """The promoted model version, if one is.

        Raises:
            StoreUnavailable: if Redis cannot be reached or the record is malformed.
            DeadlineExceeded: if Redis takes too long.
        """
        return parsed_promotion(self._get(promotion_key(read.project), timeout), read.project)

    def execute(self, commands: Iterable[Sequence[Any]], *, timeout: float) -> list[Any]:
        """Send any commands in one round trip; their replies, in order.

        Raises:
            StoreUnavailable: if Redis cannot be reached or refuses one; the others may have been carried out.
            DeadlineExceeded: if Redis takes too long.
        """
        sent = list(commands)
        if self._cluster is not None:
            return self._cluster.perform(lambda: self._execute_cluster(sent), timeout)

        def ask(wire: Wire, deadline: float) -> list[Any]:
            wire.send(wire.packed(sent), deadline)
            return [in_clients_form(self._client, command[0], wire.read(deadline)) for command in sent]

        return self._ask(ask, timeout, repeats=False)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()
        if self._cluster is not None:
            self._cluster.close()
        self._client.close()
        for sentinel in sentinels(self._address, self._client):
            sentinel.close()

    def _get(self, key: str, timeout: float) -> bytes | None:
        if self._cluster is not None:
            text: bytes | None = self._cluster.perform(lambda: self._client.get(key), timeout)
            return text

        def ask(wire: Wire, deadline: float) -> bytes | None:
            wire.send(wire.packed([("GET", key)]), deadline)
            answer: bytes | None = wire.read(deadline)
            return answer

        return self._ask(ask, timeout)

    def _ask(self, ask: Callable[[Wire, float], _Answer], timeout: float, *, repeats: bool = True) -> _Answer:
        """Ask over a connection; once more if it breaks, in the time that is left, and if that does no harm."""
        import redis

        deadline = time.monotonic() + timeout
        attempts = self._retry.attempts if repeats else 0
        with named_errors(self._address, timeout):
            while True:
                wire = self._connections.take(deadline, counts=timeout >= self._patience)
                try:
                    answer = ask(wire, deadline)
                except redis.ResponseError as error:
                    self._connections.give_up(wire, None, counts=False)
                    if isinstance(error, redis.ReadOnlyError):
                        self._connections.start_anew()  # this was the master, and is one no more
                    raise
                except TimeoutError as error:
                    self._connections.give_up(wire, error, counts=timeout >= self._patience)
                    raise
                except (redis.RedisError, OSError) as error:
                    self._connections.give_up(wire, error, counts=not attempts)
                    if not attempts:
                        raise
                    attempts -= 1
                except BaseException as error:
                    self._connections.give_up(wire, error, counts=False)
                    raise
                else:
                    self._connections.give_back(wire)
                    return answer

    def _read_cluster(self, read: ReadFeatures) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        for key in read.keys:
            pipeline.hmget(key, read.fields)
        replies: list[Reply] = pipeline.execute()
        return replies

    def _execute_cluster(self, sent: list[Sequence[Any]]) -> list[Any]:
        if len(sent) == 1:  # a cluster takes scripts in this way only
            return [self._client.execute_command(*sent[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in sent:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute()
        return replies


class AsyncFeatureReader:
    """The same for asyncio; belongs to the event loop that first reads with it."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        timeout: float | Timeout,
        limits: Limits = ONE_CALLER,
        retry: Retry = DEFAULT_RETRY,
    ) -> None:
        self._address, self._retry = address, retry
        allowed = own_timeout(timeout)
        self._patience = patience(allowed)
        cluster = address.kind == "redis_cluster"
        self._client: Any = address.connect_async(allowed.total if cluster else allowed.connect)
        self._cluster = AsyncClusterCalls(address, retry, self._patience) if cluster else None
        self._connections = async_connection_set(address, self._client, allowed, limits, retry)

    @property
    def breaker(self) -> CircuitBreaker:
        """See :attr:`FeatureReader.breaker`."""
        return self._connections.breaker if self._cluster is None else self._cluster.breaker

    def begin(self) -> None:
        """See :meth:`FeatureReader.begin`."""
        if self._cluster is None:
            self._connections.begin()

    async def read(self, read: ReadFeatures, *, timeout: float) -> list[Reply]:
        """See :meth:`FeatureReader.read`."""
        if self._cluster is not None:
            return await self._cluster.perform(lambda: self._read_cluster(read), timeout)
        packed, count = packed_reads(read), len(read.keys)

        async def ask(wire: AsyncWire) -> list[Reply]:
            await wire.send(packed)
            return [await wire.read() for _ in range(count)]

        return await self._ask(ask, timeout)

    async def read_schema(self, read: ReadSchema, *, timeout: float) -> dict[str, str] | None:
        """See :meth:`FeatureReader.read_schema`."""
        return parsed_schema(await self._get(schema_key(read.project), timeout), read.project)

    async def read_promotion(self, read: ReadPromotion, *, timeout: float) -> int | None:
        """See :meth:`FeatureReader.read_promotion`."""
        return parsed_promotion(await self._get(promotion_key(read.project), timeout), read.project)

    async def execute(self, commands: Iterable[Sequence[Any]], *, timeout: float) -> list[Any]:
        """See :meth:`FeatureReader.execute`."""
        sent = list(commands)
        if self._cluster is not None:
            return await self._cluster.perform(lambda: self._execute_cluster(sent), timeout)

        async def ask(wire: AsyncWire) -> list[Any]:
            await wire.send(wire.packed(sent))
            return [in_clients_form(self._client, command[0], await wire.read()) for command in sent]

        return await self._ask(ask, timeout, repeats=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._connections.close()
        await self._client.aclose()
        for sentinel in sentinels(self._address, self._client):
            await sentinel.aclose()

    async def _get(self, key: str, timeout: float) -> bytes | None:
        if self._cluster is not None:
            text: bytes | None = await self._cluster.perform(lambda: self._client.get(key), timeout)
            return text

        async def ask(wire: AsyncWire) -> bytes | None:
            await wire.send(wire.packed([("GET", key)]))
            answer: bytes | None = await wire.read()
            return answer

        return await self._ask(ask, timeout)

    async def _ask(
        self, ask: Callable[[AsyncWire], Awaitable[_Answer]], timeout: float, *, repeats: bool = True
    ) -> _Answer:
        """See :meth:`FeatureReader._ask`."""
        import redis

        deadline = time.monotonic() + timeout
        attempts = self._retry.attempts if repeats else 0
        with named_errors(self._address, timeout):
            while True:
                wire = await self._connections.take(deadline, counts=timeout >= self._patience)
                try:
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        answer = await ask(wire)
                except redis.ResponseError as error:
                    await self._connections.give_up(wire, None, counts=False)
                    if isinstance(error, redis.ReadOnlyError):
                        await self._connections.start_anew()  # this was the master, and is one no more
                    raise
                except TimeoutError as error:
                    await self._connections.give_up(wire, error, counts=timeout >= self._patience)
                    raise
                except (redis.RedisError, OSError) as error:
                    await self._connections.give_up(wire, error, counts=not attempts)
                    if not attempts:
                        raise
                    attempts -= 1
                except BaseException as error:
                    await self._connections.give_up(wire, error, counts=False)
                    raise
                else:
                    await self._connections.give_back(wire)
                    return answer

    async def _read_cluster(self, read: ReadFeatures) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        for key in read.keys:
            pipeline.hmget(key, read.fields)
        replies: list[Reply] = await pipeline.execute()
        return replies

    async def _execute_cluster(self, sent: list[Sequence[Any]]) -> list[Any]:
        if len(sent) == 1:
            return [await self._client.execute_command(*sent[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in sent:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute()
        return replies


def sentinels(address: RedisAddress, client: Any) -> list[Any]:
    """The clients that ask the sentinels for the master; closing the master's client leaves them open."""
    if address.sentinel_master is None:
        return []
    sentinels: list[Any] = client.connection_pool.sentinel_manager.sentinels
    return sentinels
