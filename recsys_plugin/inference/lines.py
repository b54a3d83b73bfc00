"""The line of one client to one Triton: a gRPC channel that is replaced by a new one, beside the requests.

gRPC finds out late that a server is back: a connection whose packets vanished waits for TCP to send again, which after
an outage of ten seconds can take as long once more, and one that was refused waits for gRPC's own pauses. So while a
server is known to be away, a worker tries it with a channel of its own, which takes the place of the old one as soon as
the server answers. Names are looked up anew with every channel; for that, old ones are replaced from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from typing import Any

from recsys_plugin.errors import DeadlineExceeded, InferenceUnavailable, ServiceUnavailable
from recsys_plugin.inference.address import CHANNEL_OPTIONS, TritonAddress
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.values import Limits, Retry, Timeout

__all__ = ["AsyncLines", "Line", "Lines", "TritonUnreachable"]

#: A call that was given less time than this and did not make it says nothing of the server.
_PATIENCE = 0.05
#: Part of the usual time from which on a call counts as one that had enough.
_NEARLY = 0.9
#: Seconds within which a server that is asked whether it is back must answer, at least and at most.
_CHECK_LEAST, _CHECK_MOST = 0.01, 1.0
#: How much the ages at which channels are replaced differ, lest all clients replace theirs at once.
_SPREAD = 0.2
#: Seconds that a line is kept for those who took it as it was replaced, and that those have who wait on one that led to
#: a server that was away.
_GRACE, _LAST_ORDERS = 0.1, 1.0
#: Seconds until a task that should have ended is told so again.
_CANCEL_SECONDS = 0.2


class TritonUnreachable(InferenceUnavailable):
    """Triton cannot be reached, or is shutting down; another server may well answer."""


class Line:
    """A channel, and until when it is in use."""

    __slots__ = ("busy_until", "channel", "renew_at", "stub")

    def __init__(self, channel: Any, seconds: float) -> None:
        from tritonclient.grpc import service_pb2_grpc

        self.channel = channel
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.renew_at = time.monotonic() + seconds * (1.0 - _SPREAD * random.random())
        self.busy_until = 0.0


class _Base:
    """What both kinds share: the line in use, and whether the server counts as away."""

    def __init__(self, address: TritonAddress, timeout: Timeout, limits: Limits, retry: Retry, channels: Any) -> None:
        self.address, self.breaker = address, CircuitBreaker(backoff=retry.backoff)
        self._channels, self._credentials = channels, address.credentials()
        self._seconds, self._connect = limits.connection_seconds, timeout.connect
        usual = timeout.total * (1.0 - timeout.features) or timeout.total
        self._patience = min(_NEARLY * usual, _PATIENCE)
        self._check = min(max(usual, _CHECK_LEAST), _CHECK_MOST)
        self._reason = ""
        self._retired: list[Line] = []
        self._closed = False
        self._line = self._new()

    def _new(self) -> Line:
        if self._credentials is None:
            channel = self._channels.insecure_channel(self.address.target, options=CHANNEL_OPTIONS)
        else:
            channel = self._channels.secure_channel(self.address.target, self._credentials, options=CHANNEL_OPTIONS)
        return Line(channel, self._seconds)

    def _replace(self, line: Line) -> None:
        """Use a new line; the old one is closed once no call is under way on it."""
        now, old = time.monotonic(), self._line
        if self.breaker.state != "closed":
            # What still waits there for the server that was away had better ask again.
            old.busy_until = min(old.busy_until, now + _LAST_ORDERS)
        old.busy_until = max(old.busy_until, now + _GRACE)  # somebody may just have taken it
        self._retired.append(old)
        self._line = line
        self.breaker.succeeded()

    def _could_not(self) -> None:
        """The server did not answer on a new line."""
        if self.breaker.state != "closed":
            self.breaker.failed()
        else:
            self._line.renew_at = time.monotonic() + self._connect

    def _over(self) -> list[Line]:
        """Retired lines that no call is under way on."""
        now = time.monotonic()
        over = [line for line in self._retired if self._closed or line.busy_until < now]
        self._retired = [line for line in self._retired if line not in over]
        return over

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        if self.breaker.state != "closed":
            return self.breaker.retry_after()
        return max(0.0, min((line.busy_until for line in self._retired), default=0.0) - time.monotonic())

    def _needed(self) -> bool:
        return not self._closed and (
            self.breaker.state != "closed" or bool(self._retired) or time.monotonic() >= self._line.renew_at
        )

    def refusal(self) -> TritonUnreachable:
        """Why no call is made at present."""
        if self._closed:
            return TritonUnreachable(f"{self.address}: this client is closed")
        return TritonUnreachable(f"{self.address} is away: {self._reason or 'it did not answer'}")

    def worked(self) -> None:
        """The server answered, whatever it said."""
        self.breaker.succeeded()

    def _failed(self, error: ServiceUnavailable, seconds: float) -> bool:
        """Take note of a failed call; whether the server counts as away from now on."""
        if isinstance(error, DeadlineExceeded):
            if seconds < self._patience:
                return False
            at_once = False
        elif isinstance(error, TritonUnreachable):
            at_once = True
        else:
            self.breaker.succeeded()
            return False
        if self.breaker.state == "closed":
            self._reason = str(error)
        return self.breaker.failed(at_once=at_once)


class Lines(_Base):
    """For threads.

    Args:
        address: of the server.
        timeout: what calls take as a rule, and the seconds for connecting.
        limits: after how many seconds a channel is replaced. retry: the pauses between probes.
    """

    def __init__(self, address: TritonAddress, timeout: Timeout, limits: Limits, retry: Retry) -> None:
        import grpc

        super().__init__(address, timeout, limits, retry, grpc)
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._worker: threading.Thread | None = None
        self._ending: threading.Thread | None = None
        """The worker that had nothing more to do: it may not have ended yet."""
        self._trying: Line | None = None

    def take(self, seconds: float) -> Line:
        """The line for a call that may take so many seconds.

        Raises:
            TritonUnreachable: if the server is known to be away.
        """
        line, now = self._line, time.monotonic()
        if self.breaker.state != "closed" or now >= line.renew_at:
            self._work_if_needed()
            if self.breaker.state != "closed":
                raise self.refusal()
        if self._closed:
            raise self.refusal()
        if now + seconds > line.busy_until:
            line.busy_until = now + seconds
        return line

    def failed(self, error: ServiceUnavailable, seconds: float) -> None:
        """A call that had so many seconds failed."""
        if self._failed(error, seconds):
            self._work_if_needed()
            self._news.set()

    def close(self) -> None:
        """Close the channels, and end the worker."""
        with self._lock:
            self._closed = True
            worker, trying = self._worker or self._ending, self._trying
        self._news.set()
        if trying is not None:
            trying.channel.close()
        if worker is not None:
            worker.join()
        for line in (*self._over(), self._line):
            line.channel.close()

    def end(self) -> None:
        """Let the worker end by itself: for when whoever had the line is gone, and did not close it."""
        self._closed = True
        self._news.set()

    def _work_if_needed(self) -> None:
        with self._lock:
            if self._worker is None and self._needed():
                self._worker = threading.Thread(target=self._work, name="recsys-triton", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        while True:
            for line in self._over():
                line.channel.close()
            with self._lock:
                if not self._needed():
                    self._worker, self._ending = None, self._worker
                    return
            pause = self._pause()
            if self.breaker.state == "closed" and time.monotonic() >= self._line.renew_at:
                self._try()
            elif pause > 0:
                self._news.wait(pause)
                self._news.clear()
            elif self.breaker.state != "closed" and self.breaker.allows():
                self._try()

    def _try(self) -> None:
        """Make a new line, and find out whether the server answers on it in time."""
        import grpc
        from tritonclient.grpc import service_pb2

        line = self._trying = self._new()
        try:
            line.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=self._connect)
            line.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=self._check)
        except (grpc.RpcError, ValueError):  # the second if it was closed meanwhile
            line.channel.close()
            self._could_not()
        else:
            with self._lock:
                self._replace(line)
        self._trying = None


class AsyncLines(_Base):
    """:class:`Lines` for the tasks of one event loop."""

    def __init__(self, address: TritonAddress, timeout: Timeout, limits: Limits, retry: Retry) -> None:
        import grpc.aio

        super().__init__(address, timeout, limits, retry, grpc.aio)
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def take(self, seconds: float) -> Line:
        """See :meth:`Lines.take`."""
        line, now = self._line, time.monotonic()
        if self.breaker.state != "closed" or now >= line.renew_at:
            self._work_if_needed()
            if self.breaker.state != "closed":
                raise self.refusal()
        if self._closed:
            raise self.refusal()
        line.busy_until = max(line.busy_until, now + seconds)
        return line

    def failed(self, error: ServiceUnavailable, seconds: float) -> None:
        """See :meth:`Lines.failed`."""
        if self._failed(error, seconds):
            self._work_if_needed()
            self._news.set()

    async def close(self) -> None:
        """See :meth:`Lines.close`."""
        self._closed = True
        while self._worker is not None and not self._worker.done():
            # A cancellation may meet a wait that ends that very moment, and is lost on it: so it is repeated.
            self._worker.cancel()
            await asyncio.wait([self._worker], timeout=_CANCEL_SECONDS)
        for line in (*self._over(), self._line):
            await line.channel.close()

    def _work_if_needed(self) -> None:
        if (self._worker is None or self._worker.done()) and self._needed():
            self._worker = asyncio.create_task(self._work(), name="recsys-triton")

    async def _work(self) -> None:
        while self._needed():
            for line in self._over():
                await line.channel.close()
            pause = self._pause()
            if self.breaker.state == "closed" and time.monotonic() >= self._line.renew_at:
                await self._try()
            elif pause > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._news.wait()
                self._news.clear()
            elif self.breaker.state != "closed" and self.breaker.allows():
                await self._try()

    async def _try(self) -> None:
        """See :meth:`Lines._try`."""
        import grpc
        from tritonclient.grpc import service_pb2

        line = self._new()
        try:
            await line.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=self._connect)
            await line.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=self._check)
        except grpc.RpcError:
            await line.channel.close()
            self._could_not()
        except BaseException:
            await line.channel.close()
            raise
        else:
            self._replace(line)
