"""Several Tritons that serve the same models: calls go to them in turn, and around those that are down or slow.

gRPC's own ``round_robin`` policy takes IP addresses only, and knows neither which server has the version that a call
was made for nor what to do with a call whose server has just gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from recsys_plugin.errors import DeadlineExceeded, ServiceUnavailable
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.calls import Infer, ModelSettings
from recsys_plugin.inference.tensors import Array
from recsys_plugin.inference.triton import AsyncTritonClient, TritonClient
from recsys_plugin.inference.turns import LOOK, Attempts, Found, Turns
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.hedging import Hedges, Hedging
from recsys_plugin.resilience.values import Limits, Retry, Timeout

__all__ = ["AsyncReplicas", "Replicas", "connect", "connect_async"]

_USUAL, _LIMITS, _RETRY, _HEDGING = Timeout(), Limits(), Retry(), Hedging()


class Replicas:
    """Several Tritons, with the methods of :class:`~recsys_plugin.inference.triton.TritonClient`.

    Calls go to them in turn. One that cannot be reached is left out from that moment on and the call goes to the next
    one within the same time; it is taken back once it says that it is ready. A model call that takes unusually long is
    given up and made once more, of the next server; one that is too slow several times in a row is left out likewise. A
    call made for a version goes to those that have it.

    Args:
        addresses: two or more.
        timeout, limits, retry: see :class:`~recsys_plugin.inference.triton.TritonClient`.
        hedging: when a call is made once more, and how often at most.
    """

    def __init__(
        self,
        addresses: Sequence[TritonAddress],
        *,
        timeout: Timeout = _USUAL,
        limits: Limits = _LIMITS,
        retry: Retry = _RETRY,
        hedging: Hedging = _HEDGING,
    ) -> None:
        once = replace(retry, attempts=0)  # the next server is the next attempt
        self._clients = [TritonClient(address, timeout=timeout, limits=limits, retry=once) for address in addresses]
        self._turns = Turns(len(addresses))
        self.hedges = Hedges(hedging)

    @property
    def breakers(self) -> dict[str, CircuitBreaker]:
        """Server → its breaker."""
        return {server: breaker for client in self._clients for server, breaker in client.breakers.items()}

    def infer(self, call: Infer, *, timeout: float) -> dict[str, Array]:
        """See :meth:`TritonClient.infer`."""
        self._look_for_those_away()
        began, may_hedge = time.monotonic(), True
        attempts = Attempts(self._turns, (call.model, call.version), timeout)
        for server, left in attempts:
            client = self._clients[server]
            seconds = min(left, self.hedges.delay(left)) if may_hedge and self.hedges.left else left
            try:
                answer = client.infer(call, timeout=seconds)
            except DeadlineExceeded as error:
                if seconds == left or not self.hedges.allows():
                    attempts.failed(server, error)
                may_hedge = False
                attempts.slow(server, error)
                if client.was_slow():
                    self._turns.went(server)
            except ServiceUnavailable as error:
                attempts.failed(server, error)
            else:
                attempts.worked(server)
                self.hedges.observe(time.monotonic() - began)
                return answer
        raise attempts.error()

    def versions(self, model: str, *, timeout: float) -> tuple[int, ...]:
        """The versions of a model that are ready on every server that answers, see :func:`common_versions`."""
        self._look_for_those_away()
        found = Found(self._turns)
        for server in self._turns.reachable():
            try:
                found.has(server, self._clients[server].versions(model, timeout=min(timeout, LOOK)))
            except ServiceUnavailable as error:
                found.failed(server, error)
        return found.versions()

    def settings(self, model: str, version: int, *, timeout: float) -> ModelSettings:
        """See :meth:`TritonClient.settings`."""
        self._look_for_those_away()
        attempts = Attempts(self._turns, (model, version), timeout)
        for server, left in attempts:
            try:
                answer = self._clients[server].settings(model, version, timeout=left)
            except ServiceUnavailable as error:
                attempts.failed(server, error)
            else:
                attempts.worked(server)
                return answer
        raise attempts.error()

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def _look_for_those_away(self) -> None:
        for server in self._turns.to_ask():
            self._clients[server].ask_ready(partial(self._turns.says, server), timeout=LOOK)


class AsyncReplicas:
    """:class:`Replicas` for asyncio; belongs to the event loop it was made in.

    Here a call that takes unusually long goes on while the next server is asked, and the quicker answer counts. (In
    threads that would cost every call the way through another thread.)
    """

    def __init__(
        self,
        addresses: Sequence[TritonAddress],
        *,
        timeout: Timeout = _USUAL,
        limits: Limits = _LIMITS,
        retry: Retry = _RETRY,
        hedging: Hedging = _HEDGING,
    ) -> None:
        once = replace(retry, attempts=0)
        self._clients = [
            AsyncTritonClient(address, timeout=timeout, limits=limits, retry=once) for address in addresses
        ]
        self._turns = Turns(len(addresses))
        self._looking: set[asyncio.Task[None]] = set()
        self.hedges = Hedges(hedging)

    @property
    def breakers(self) -> dict[str, CircuitBreaker]:
        """Server → its breaker."""
        return {server: breaker for client in self._clients for server, breaker in client.breakers.items()}

    async def infer(self, call: Infer, *, timeout: float) -> dict[str, Array]:
        """See :meth:`Replicas.infer`."""
        self._look_for_those_away()
        began = time.monotonic()
        attempts = Attempts(self._turns, (call.model, call.version), timeout)
        servers = iter(attempts)
        pending: dict[asyncio.Task[dict[str, Array]], int] = {}
        may_hedge, delay = True, self.hedges.delay(timeout)
        self._begin_next(call, servers, pending)
        try:
            while pending:
                wait = max(0.0, began + delay - time.monotonic()) if may_hedge else None
                done, _ = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    may_hedge = False
                    if self.hedges.allows():
                        self._begin_next(call, servers, pending)
                    continue
                asked = done.pop()
                server = pending.pop(asked)
                try:
                    answer = asked.result()
                except ServiceUnavailable as error:
                    attempts.failed(server, error)
                    if not pending:
                        self._begin_next(call, servers, pending)
                else:
                    attempts.worked(server)
                    self.hedges.observe(time.monotonic() - began)
                    return answer
        finally:
            for task, server in pending.items():
                task.cancel()
                if self._clients[server].was_slow():
                    self._turns.went(server)
        raise attempts.error()

    async def versions(self, model: str, *, timeout: float) -> tuple[int, ...]:
        """See :meth:`Replicas.versions`."""
        self._look_for_those_away()
        found = Found(self._turns)
        for server in self._turns.reachable():
            try:
                found.has(server, await self._clients[server].versions(model, timeout=min(timeout, LOOK)))
            except ServiceUnavailable as error:
                found.failed(server, error)
        return found.versions()

    async def settings(self, model: str, version: int, *, timeout: float) -> ModelSettings:
        """See :meth:`TritonClient.settings`."""
        self._look_for_those_away()
        attempts = Attempts(self._turns, (model, version), timeout)
        for server, left in attempts:
            try:
                answer = await self._clients[server].settings(model, version, timeout=left)
            except ServiceUnavailable as error:
                attempts.failed(server, error)
            else:
                attempts.worked(server)
                return answer
        raise attempts.error()

    async def close(self) -> None:
        """Close the connections."""
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        for client in self._clients:
            await client.close()

    def _begin_next(
        self,
        call: Infer,
        servers: Iterator[tuple[int, float]],
        pending: dict[asyncio.Task[dict[str, Array]], int],
    ) -> None:
        """Ask the next server, if there is one."""
        for server, left in servers:
            pending[asyncio.create_task(self._clients[server].infer(call, timeout=left))] = server
            return

    def _look_for_those_away(self) -> None:
        for server in self._turns.to_ask():
            task = asyncio.create_task(self._look(server))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _look(self, server: int) -> None:
        self._turns.says(server, await self._clients[server].is_ready(timeout=LOOK))


def connect(
    addresses: Sequence[TritonAddress],
    *,
    timeout: Timeout = _USUAL,
    limits: Limits = _LIMITS,
    retry: Retry = _RETRY,
    hedging: Hedging = _HEDGING,
) -> TritonClient | Replicas:
    """A blocking client of one Triton or of several that serve the same."""
    if len(addresses) == 1:
        return TritonClient(addresses[0], timeout=timeout, limits=limits, retry=retry)
    return Replicas(addresses, timeout=timeout, limits=limits, retry=retry, hedging=hedging)


def connect_async(
    addresses: Sequence[TritonAddress],
    *,
    timeout: Timeout = _USUAL,
    limits: Limits = _LIMITS,
    retry: Retry = _RETRY,
    hedging: Hedging = _HEDGING,
) -> AsyncTritonClient | AsyncReplicas:
    """The same for asyncio."""
    if len(addresses) == 1:
        return AsyncTritonClient(addresses[0], timeout=timeout, limits=limits, retry=retry)
    return AsyncReplicas(addresses, timeout=timeout, limits=limits, retry=retry, hedging=hedging)
