"""Calls to a cluster within their time, and none while it is known to be away.

Which server has a key, and where that server has gone, is redis-py's business; it may ask several of them, each with a
timeout of its own. So a blocking call is made by a thread of a few, and the caller waits for it no longer than it may.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.values import Retry

__all__ = ["AsyncClusterCalls", "ClusterCalls"]

_Answer = TypeVar("_Answer")

_THREADS = 16


class _Watched:
    """Whether the cluster is to be asked, and what its answers say of it."""

    def __init__(self, address: RedisAddress, retry: Retry, patience: float) -> None:
        self._address, self._patience = address, patience
        self.breaker = CircuitBreaker(backoff=retry.backoff)

    def begin(self) -> None:
        if not self.breaker.allows():
            raise StoreUnavailable(
                f"{self._address!r} is away; it is asked again in {self.breaker.retry_after() * 1000:.0f} ms"
            )

    def failed(self, error: BaseException, timeout: float) -> None:
        import redis

        if isinstance(error, redis.ResponseError):
            self.breaker.succeeded()
        elif self.breaker.state != "closed" or not isinstance(error, TimeoutError) or timeout >= self._patience:
            self.breaker.failed()


class ClusterCalls(_Watched):
    """For threads.

    Args:
        address: of the cluster.
        retry: the pauses between probes.
        patience: seconds; a call that had less says nothing of the cluster if it got no answer.
    """

    def __init__(self, address: RedisAddress, retry: Retry, patience: float) -> None:
        super().__init__(address, retry, patience)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="recsys-cluster")

    def perform(self, work: Callable[[], _Answer], timeout: float) -> _Answer:
        """What the work comes to.

        Raises:
            StoreUnavailable: if the cluster refuses, cannot be reached, or is known to be away.
            DeadlineExceeded: if it takes longer than ``timeout`` seconds.
        """
        self.begin()
        with named_errors(self._address, timeout):
            asked = self._threads.submit(work)
            try:
                answer = asked.result(timeout)
            except BaseException as error:
                asked.cancel()
                self.failed(error, timeout)
                raise
            self.breaker.succeeded()
            return answer

    def close(self) -> None:
        """End the threads; each ends with what it is doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class AsyncClusterCalls(_Watched):
    """For the tasks of one event loop; see :class:`ClusterCalls`."""

    async def perform(self, work: Callable[[], Awaitable[_Answer]], timeout: float) -> _Answer:
        """See :meth:`ClusterCalls.perform`."""
        self.begin()
        with named_errors(self._address, timeout):
            try:
                async with asyncio.timeout(timeout):
                    answer = await work()
            except BaseException as error:
                self.failed(error, timeout)
                raise
            self.breaker.succeeded()
            return answer
