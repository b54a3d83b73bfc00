"""One Triton through gRPC: every call within its time, and none while the server is known to be away."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from recsys_plugin.errors import DeadlineExceeded, InferenceUnavailable, ReleaseChanged, ServiceUnavailable
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.calls import Infer, ModelSettings
from recsys_plugin.inference.lines import AsyncLines, Line, Lines, TritonUnreachable
from recsys_plugin.inference.messages import (
    checked_outputs,
    headers,
    infer_message,
    model_message,
    settings_of,
    versions_of,
)
from recsys_plugin.inference.tensors import Array
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.values import Limits, Retry, Timeout

__all__ = ["AsyncTritonClient", "TritonClient", "named_error"]

_Answer = TypeVar("_Answer")

_USUAL, _LIMITS, _RETRY = Timeout(), Limits(), Retry()


class TritonClient:
    """Calls Triton; safe to share between threads. Each call says how many seconds it may take.

    Args:
        address: where it is.
        timeout: what calls take as a rule, see :class:`~recsys_plugin.inference.lines.Lines`.
        limits: when the channel is replaced.
        retry: how often a call is made anew whose connection broke, and the pauses until a server that is away is
            asked again.

    Raises, from every call:
        DeadlineExceeded: if the answer did not come in time.
        InferenceUnavailable: if Triton cannot be reached, refuses, or answers something else than was asked for;
            :class:`~recsys_plugin.inference.lines.TritonUnreachable` in the first case.
    """

    def __init__(
        self, address: TritonAddress, *, timeout: Timeout = _USUAL, limits: Limits = _LIMITS, retry: Retry = _RETRY
    ) -> None:
        self._address, self._attempts = address, retry.attempts
        self._lines = Lines(address, timeout, limits, retry)
        weakref.finalize(self, self._lines.end)

    @property
    def breakers(self) -> dict[str, CircuitBreaker]:
        """Server → its breaker."""
        return {str(self._address): self._lines.breaker}

    @property
    def breaker(self) -> CircuitBreaker:
        """Whether Triton is known to be away."""
        return self._lines.breaker

    def infer(self, call: Infer, *, timeout: float) -> dict[str, Array]:
        """Call a model; output name → array, each checked against what the call asked for."""

        def ask(line: Line, left: float) -> Any:
            return line.stub.ModelInfer(infer_message(call, left), timeout=left, metadata=headers(call))

        return checked_outputs(call, self._ask(f"model {call.model} version {call.version}", ask, timeout))

    def was_slow(self) -> bool:
        """Take note that another server was asked because this one took too long; whether it counts as away by now."""
        return _was_slow(self._lines, self._address)

    def versions(self, model: str, *, timeout: float) -> tuple[int, ...]:
        """The versions of a model that are ready, in ascending order."""
        message = model_message("ModelMetadata", model)
        return versions_of(
            self._ask(f"model {model}", lambda line, left: line.stub.ModelMetadata(message, timeout=left), timeout)
        )

    def settings(self, model: str, version: int, *, timeout: float) -> ModelSettings:
        """A model version's configuration."""
        message, what = model_message("ModelConfig", model, version), f"model {model} version {version}"
        return settings_of(self._ask(what, lambda line, left: line.stub.ModelConfig(message, timeout=left), timeout))

    def ask_ready(self, done: Callable[[bool], None], *, timeout: float) -> None:
        """Ask whether the server and its models are ready, without waiting for it.

        Args:
            done: told the answer, from another thread; ``False`` if there is none in time.
            timeout: seconds for the answer.
        """
        import grpc
        from tritonclient.grpc import service_pb2

        try:
            line = self._lines.take(timeout)
        except TritonUnreachable:
            done(False)
            return
        asked = line.stub.ServerReady.future(service_pb2.ServerReadyRequest(), timeout=timeout)
        asked.add_done_callback(lambda answer: done(answer.code() is grpc.StatusCode.OK and answer.result().ready))

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()

    def _ask(self, what: str, ask: Callable[[Line, float], _Answer], timeout: float) -> _Answer:
        """Ask; once more if the connection breaks, in the time that is left."""
        import grpc

        deadline, attempts, left = time.monotonic() + timeout, self._attempts, timeout
        while True:
            line = self._lines.take(left)
            try:
                answer = ask(line, left)
            except grpc.RpcError as raised:
                error = named_error(raised, what, self._address, timeout)
                left = deadline - time.monotonic()
                if isinstance(error, TritonUnreachable) and attempts and left > 0:
                    attempts -= 1
                    continue
                self._lines.failed(error, timeout)
                raise error from raised
            self._lines.worked()
            return answer


class AsyncTritonClient:
    """The same for asyncio; belongs to the event loop it was made in."""

    def __init__(
        self, address: TritonAddress, *, timeout: Timeout = _USUAL, limits: Limits = _LIMITS, retry: Retry = _RETRY
    ) -> None:
        self._address, self._attempts = address, retry.attempts
        self._lines = AsyncLines(address, timeout, limits, retry)

    @property
    def breakers(self) -> dict[str, CircuitBreaker]:
        """Server → its breaker."""
        return {str(self._address): self._lines.breaker}

    @property
    def breaker(self) -> CircuitBreaker:
        """See :attr:`TritonClient.breaker`."""
        return self._lines.breaker

    async def infer(self, call: Infer, *, timeout: float) -> dict[str, Array]:
        """See :meth:`TritonClient.infer`."""

        def ask(line: Line, left: float) -> Awaitable[Any]:
            asked: Awaitable[Any] = line.stub.ModelInfer(
                infer_message(call, left), timeout=left, metadata=headers(call)
            )
            return asked

        return checked_outputs(call, await self._ask(f"model {call.model} version {call.version}", ask, timeout))

    def was_slow(self) -> bool:
        """See :meth:`TritonClient.was_slow`."""
        return _was_slow(self._lines, self._address)

    async def versions(self, model: str, *, timeout: float) -> tuple[int, ...]:
        """See :meth:`TritonClient.versions`."""
        message = model_message("ModelMetadata", model)
        return versions_of(
            await self._ask(
                f"model {model}", lambda line, left: line.stub.ModelMetadata(message, timeout=left), timeout
            )
        )

    async def settings(self, model: str, version: int, *, timeout: float) -> ModelSettings:
        """See :meth:`TritonClient.settings`."""
        message, what = model_message("ModelConfig", model, version), f"model {model} version {version}"
        return settings_of(
            await self._ask(what, lambda line, left: line.stub.ModelConfig(message, timeout=left), timeout)
        )

    async def is_ready(self, *, timeout: float) -> bool:
        """Whether the server and its models are ready; ``False`` if it does not answer in time."""
        import grpc
        from tritonclient.grpc import service_pb2

        try:
            line = self._lines.take(timeout)
            return bool((await line.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=timeout)).ready)
        except (grpc.RpcError, TritonUnreachable):
            return False

    async def close(self) -> None:
        """Close the connection."""
        await self._lines.close()

    async def _ask(self, what: str, ask: Callable[[Line, float], Awaitable[_Answer]], timeout: float) -> _Answer:
        """See :meth:`TritonClient._ask`."""
        import grpc

        deadline, attempts, left = time.monotonic() + timeout, self._attempts, timeout
        while True:
            line = self._lines.take(left)
            try:
                # gRPC is told the deadline too, but its timers are some milliseconds late, and many when it is busy.
                async with asyncio.timeout(left):
                    answer = await ask(line, left)
            except (grpc.RpcError, TimeoutError) as raised:
                error = named_error(raised, what, self._address, timeout)
                left = deadline - time.monotonic()
                if isinstance(error, TritonUnreachable) and attempts and left > 0:
                    attempts -= 1
                    continue
                self._lines.failed(error, timeout)
                raise error from raised
            self._lines.worked()
            return answer


def named_error(error: Any, what: str, address: TritonAddress, timeout: float) -> ServiceUnavailable:
    """This package's error for one of gRPC's, or for the end of its time, naming the model and the server."""
    import grpc

    code = grpc.StatusCode.DEADLINE_EXCEEDED if isinstance(error, TimeoutError) else error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{what} at {address} did not answer within {timeout * 1000:.0f} ms")
    message = f"{what} at {address}: {code.name}: {error.details()}"
    # Triton's words for a version that it no longer serves, or is just taking down.
    if code == grpc.StatusCode.NOT_FOUND or "not at ready state" in (error.details() or ""):
        return ReleaseChanged(message)
    if code == grpc.StatusCode.UNAVAILABLE:
        return TritonUnreachable(f"{message}. Is Triton running? `recsys up` starts the embedded one")
    return InferenceUnavailable(message)


def _was_slow(lines: Lines | AsyncLines, address: TritonAddress) -> bool:
    lines.failed(DeadlineExceeded(f"{address} was slower than usual, several times in a row"), math.inf)
    return lines.breaker.state != "closed"
