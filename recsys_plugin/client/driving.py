"""Driving a flow to its end: each call it yields is made within the time that is left, and it is sent the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from recsys_plugin.client.course import Course
from recsys_plugin.errors import RecsysError
from recsys_plugin.resilience.gate import AsyncGate, Gate

__all__ = ["drive", "drive_awaiting"]

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
