"""Recording for a backend: what shoppers do, into the streams, in one round trip; blocking and awaiting."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from recsys_plugin.background import Warner, Watcher
from recsys_plugin.errors import ConfigurationError, InvalidInput, RecsysError
from recsys_plugin.events import recording
from recsys_plugin.events.calls import AppendEvents, OnDisk
from recsys_plugin.events.event import Event
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.events.recording import VISIBLE_TIMEOUT, Recorded, RecordingContext
from recsys_plugin.events.spool import SPOOL_BYTES, Spool
from recsys_plugin.events.transport import AsyncEventTransport, EventTransport
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.settings import Settings

__all__ = ["AsyncEventRecorder", "EventRecorder"]

_Result = TypeVar("_Result")

#: Seconds between two looks at the spool, and seconds that sending a batch of it may take.
_PAUSE = 1.0
_REPLAY_TIMEOUT = 10.0
#: Seconds until a task that should have ended is told so again.
_CANCEL_SECONDS = 0.2


class _RecorderBase(ABC):
    """The arguments of a recorder.

    Args:
        redis_url: see :mod:`recsys_plugin.features.connection`.
        timeout: seconds that a call may take, unless it says otherwise.
        project: the Feast project.
        spool: a folder on a local disk that takes events while Redis is away; several processes may share it. Without
            one, recording then fails.
        spool_bytes: what that folder may hold.
        clock: gives the time at which events are recorded, unix seconds.
        event_ids: names events that have no id.

    Raises:
        ConfigurationError: if the URL is malformed.
        InvalidInput: if the timeout is no number of seconds above 0.
        StoreUnavailable: if the folder cannot be used.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        timeout: float = 0.5,
        project: str = "recsys",
        spool: str | os.PathLike[str] | None = None,
        spool_bytes: int = SPOOL_BYTES,
        clock: Callable[[], float] = time.time,
        event_ids: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._address = RedisAddress.parse(redis_url)
        self._timeout = _seconds(timeout)
        queue = None if spool is None else Spool(Path(spool), now=int(clock() * 1_000_000), most_bytes=spool_bytes)
        self._context = RecordingContext(EventKeys(project), queue, clock, event_ids)
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Get ready as far as is possible without waiting."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **options: Any) -> Self:
        """Make a recorder from ``RECSYS_REDIS_URL`` and, if it is set, ``RECSYS_SPOOL``.

        ``RECSYS_AS_OF`` stops the clock at that moment. ``options`` are the keyword arguments of the class.

        Raises:
            ConfigurationError: if the URL is missing or malformed.
        """
        settings = Settings.from_environment(environ)
        if settings.redis_url is None:
            raise ConfigurationError(
                'RECSYS_REDIS_URL not set. With servers started by `recsys up`: eval "$(recsys env)"'
            )
        if settings.as_of is not None:
            as_of = settings.as_of.timestamp()
            options.setdefault("clock", lambda: as_of)
        options.setdefault("spool", settings.spool)
        return cls(settings.redis_url, **options)

    @property
    def spooling(self) -> bool:
        """Whether events wait on the local disk."""
        return self._context.spool is not None and self._context.spool.pending

    @property
    def counts(self) -> dict[str, int]:
        """What became of events so far: ``recorded``, ``spooled``, ``sent_from_spool``, ``refused``, ``failed``."""
        return self._context.counts.so_far()

    def _allowed(self, timeout: float | None, visible: bool) -> float:
        if timeout is None:
            return VISIBLE_TIMEOUT if visible else self._timeout
        return _seconds(timeout)


class EventRecorder(_RecorderBase):
    """Records events; safe to share between threads. Its arguments are those above; it connects at the first event."""

    def _open(self) -> None:
        self._transport = EventTransport(self._address, timeout=self._timeout)
        self._replaying = threading.Lock()
        self._watcher = None if self._context.spool is None else _watch(self._replay_spool)

    def record(self, event: Event, *, visible: bool = False, timeout: float | None = None) -> Recorded:
        """Record one event: when this returns it is in the stream, or on the local disk.

        Args:
            event: its timestamp and id are filled in where they are missing.
            visible: wait until the user's next page reflects it; needs `recsys stream`.
            timeout: seconds for this call; 1 with ``visible`` unless said otherwise.

        Raises:
            EventRefused: if it is no event, lies in the future, is too old or too large.
            StoreUnavailable, DeadlineExceeded: without a spool, if Redis does not acknowledge it in time; to record it
                again is safe if it has an ``event_id``. :class:`SpoolFull` if the spool is full.
            DeadlineExceeded: with ``visible``, if no worker answered in time: the event is recorded all the same.
        """
        return self._run(recording.record(self._context, [event], visible=visible), self._allowed(timeout, visible))[0]

    def record_many(self, events: Iterable[Event], *, timeout: float | None = None) -> list[Recorded]:
        """Record up to 5,000 events in one round trip, in order; if one is refused, none is recorded.

        Raises as :meth:`record`.
        """
        return self._run(recording.record(self._context, events), self._allowed(timeout, False))

    def flush(self) -> int:
        """Send what is spooled now, in order; it is also done by itself every second.

        Returns:
            How many events were sent.

        Raises:
            StoreUnavailable, DeadlineExceeded: if Redis is still away; what was not sent stays spooled.
        """
        with self._replaying:
            return self._run(recording.replay(self._context), _REPLAY_TIMEOUT)

    def close(self) -> None:
        """Close the connections; what is spooled waits for the next recorder on that folder."""
        if self._watcher is not None:
            self._watcher.close()
        self._transport.close()
        if self._context.spool is not None:
            self._context.spool.close()

    def __enter__(self) -> Self:
        """The recorder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _replay_spool(self) -> None:
        spool = self._context.spool
        if spool is not None:
            spool.take_over()
            if spool.pending:
                self.flush()

    def _run(self, flow: Generator[AppendEvents | OnDisk, Any, _Result], timeout: float) -> _Result:
        try:
            call = next(flow)
            while True:
                try:
                    match call:
                        case AppendEvents():
                            answer: Any = self._transport.append(call, timeout=timeout)
                        case OnDisk():
                            answer = call.action()
                except RecsysError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as end:
            result: _Result = end.value
            return result


class AsyncEventRecorder(_RecorderBase):
    """:class:`EventRecorder` for asyncio: same arguments, same methods. It belongs to one event loop."""

    def _open(self) -> None:
        self._transport: AsyncEventTransport | None = None
        self._replaying = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None

    async def record(self, event: Event, *, visible: bool = False, timeout: float | None = None) -> Recorded:
        """See :meth:`EventRecorder.record`."""
        flow = recording.record(self._context, [event], visible=visible)
        return (await self._run(flow, self._allowed(timeout, visible)))[0]

    async def record_many(self, events: Iterable[Event], *, timeout: float | None = None) -> list[Recorded]:
        """See :meth:`EventRecorder.record_many`."""
        return await self._run(recording.record(self._context, events), self._allowed(timeout, False))

    async def flush(self) -> int:
        """See :meth:`EventRecorder.flush`."""
        async with self._replaying:
            return await self._run(recording.replay(self._context), _REPLAY_TIMEOUT)

    async def close(self) -> None:
        """See :meth:`EventRecorder.close`."""
        if self._watcher is not None:
            while not self._watcher.done():
                # A cancellation may meet a wait that ends that very moment, and is lost on it: so it is repeated.
                self._watcher.cancel()
                await asyncio.wait([self._watcher], timeout=_CANCEL_SECONDS)
            self._watcher = None
        if self._transport is not None:
            await self._transport.close()
            self._transport = None
        if self._context.spool is not None:
            self._context.spool.close()

    async def __aenter__(self) -> Self:
        """The recorder itself."""
        self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def begin(self) -> AsyncEventTransport:
        """Make what belongs to the event loop that runs now, and start sending what is spooled."""
        if self._transport is None:
            self._transport = AsyncEventTransport(self._address, timeout=self._timeout)
            if self._context.spool is not None:
                self._watcher = asyncio.create_task(self._watch(self._context.spool))
        return self._transport

    async def _watch(self, spool: Spool) -> None:
        warner = Warner("could not send spooled events")
        while True:
            try:
                await asyncio.to_thread(spool.take_over)
                if spool.pending:
                    await self.flush()
                warner.worked()
            except RecsysError as error:
                warner.failed(error)
            await asyncio.sleep(_PAUSE)

    async def _run(self, flow: Generator[AppendEvents | OnDisk, Any, _Result], timeout: float) -> _Result:
        transport = self.begin()
        try:
            call = next(flow)
            while True:
                try:
                    match call:
                        case AppendEvents():
                            answer: Any = await transport.append(call, timeout=timeout)
                        case OnDisk():
                            answer = await asyncio.to_thread(call.action)
                except RecsysError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(answer)
        except StopIteration as end:
            result: _Result = end.value
            return result


def _watch(replay: Callable[[], None]) -> Watcher:
    """Call ``replay``, a method of the recorder, every second."""
    method, warner = weakref.WeakMethod(replay), Warner("could not send spooled events")

    def watch(closed: threading.Event) -> None:
        while (call := method()) is not None:
            try:
                call()
                warner.worked()
            except RecsysError as error:
                if not closed.is_set():
                    warner.failed(error)
            del call
            if closed.wait(_PAUSE):
                return

    return Watcher("recsys-spool", watch)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise InvalidInput(f"timeout: {value!r:.60} is not a number of seconds above 0")
    return float(value)
