"""Driving a flow to its end: each call it yields is made within the time that is left, and it is sent the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from recsys_plugin.client.course import Course
from recsys_plugin.client.limited import Limited
from recsys_plugin.client.offload import Offload, awaited, offloaded
from recsys_plugin.client.rest import Rest
from recsys_plugin.errors import RecsysError
from recsys_plugin.features.commands import Commands
from recsys_plugin.features.plan import ReadFeatures, ReadPromotion, ReadSchema
from recsys_plugin.features.reader import AsyncFeatureReader, FeatureReader
from recsys_plugin.inference.calls import GetSettings, GetVersions, Infer
from recsys_plugin.inference.replicas import AsyncReplicas, Replicas
from recsys_plugin.inference.triton import AsyncTritonClient, TritonClient
from recsys_plugin.resilience.gate import AsyncGate, Gate

__all__ = ["drive", "drive_awaiting", "perform", "perform_awaiting"]

_Result = TypeVar("_Result")


def drive(
    flow: Generator[Any, Any, _Result],
    course: Course,
    gate: Gate | None,
    perform: Callable[[Any, float], object],
) -> _Result:
    """What a flow comes to.

    Args:
        course: the time that it has.
        gate: what it goes through before its first call. If its turn does not come, the flow is told as if the call had
            failed.
        perform: makes a call that may take so many seconds.

    Raises:
        RecsysError: what the flow raises; it is told of errors of its calls first.
    """
    try:
        call = next(flow)
        while True:
            try:
                seconds = course.seconds_for(call)
                if gate is not None and not course.inside:
                    gate.enter(course.deadline)
                    course.inside = True
                    seconds = course.seconds_for(call)
                answer = perform(call, seconds)
            except RecsysError as error:
                course.failed(call, error)
                call = flow.throw(error)
            else:
                call = flow.send(answer)
    except StopIteration as end:
        course.ended()
        result: _Result = end.value
        return result
    finally:
        if gate is not None and course.inside:
            gate.leave(course.took())


async def drive_awaiting(
    flow: Generator[Any, Any, _Result],
    course: Course,
    gate: AsyncGate | None,
    perform: Callable[[Any, float], Awaitable[object]],
) -> _Result:
    """:func:`drive` from an event loop."""
    try:
        call = next(flow)
        while True:
            try:
                seconds = course.seconds_for(call)
                if gate is not None and not course.inside:
                    await gate.enter(course.deadline)
                    course.inside = True
                    seconds = course.seconds_for(call)
                answer = await perform(call, seconds)
            except RecsysError as error:
                course.failed(call, error)
                call = flow.throw(error)
            else:
                call = flow.send(answer)
    except StopIteration as end:
        course.ended()
        result: _Result = end.value
        return result
    finally:
        if gate is not None and course.inside:
            gate.leave(course.took())


def perform(call: object, timeout: float, reader: FeatureReader, triton: TritonClient | Replicas) -> object:
    """The answer to a call of a flow, which may take so many seconds."""
    match call:
        case ReadFeatures():
            return reader.read(call, timeout=timeout)
        case Infer():
            return triton.infer(call, timeout=timeout)
        case Limited():
            return perform(call.call, min(timeout, call.seconds), reader, triton)
        case Commands():
            return reader.execute(call.commands, timeout=timeout)
        case ReadSchema():
            return reader.read_schema(call, timeout=timeout)
        case ReadPromotion():
            return reader.read_promotion(call, timeout=timeout)
        case GetVersions():
            return triton.versions(call.model, timeout=timeout)
        case GetSettings():
            return triton.settings(call.model, call.version, timeout=timeout)
        case Offload():
            return offloaded(call, seconds=timeout)
        case Rest():
            time.sleep(min(timeout, call.seconds))
            return None
        case _:
            raise TypeError(f"a flow made a call of unknown kind: {call!r}")


async def perform_awaiting(
    call: object, timeout: float, reader: AsyncFeatureReader, triton: AsyncTritonClient | AsyncReplicas
) -> object:
    """:func:`perform` from an event loop."""
    match call:
        case ReadFeatures():
            return await reader.read(call, timeout=timeout)
        case Infer():
            return await triton.infer(call, timeout=timeout)
        case Limited():
            return await perform_awaiting(call.call, min(timeout, call.seconds), reader, triton)
        case Commands():
            return await reader.execute(call.commands, timeout=timeout)
        case ReadSchema():
            return await reader.read_schema(call, timeout=timeout)
        case ReadPromotion():
            return await reader.read_promotion(call, timeout=timeout)
        case GetVersions():
            return await triton.versions(call.model, timeout=timeout)
        case GetSettings():
            return await triton.settings(call.model, call.version, timeout=timeout)
        case Offload():
            return await awaited(call, seconds=timeout)
        case Rest():
            await asyncio.sleep(min(timeout, call.seconds))
            return None
        case _:
            raise TypeError(f"a flow made a call of unknown kind: {call!r}")
