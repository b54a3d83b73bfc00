"""Calls that may take less time than their request has."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from recsys_plugin.errors import DeadlineExceeded, RecsysError

__all__ = ["Limited", "limited"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Limited:
    """A call that may take so many seconds and no more, though the request has more time."""

    call: Any
    seconds: float


def limited(
    flow: Generator[Any, Any, _Result], deadline: float, timer: Callable[[], float], over: str
) -> Generator[Any, Any, _Result]:
    """A flow whose calls may take no longer than until ``deadline``, a moment of ``timer``.

    Raises:
        DeadlineExceeded: if that has passed, with the message ``over``.
    """
    try:
        call = next(flow)
        while True:
            left = deadline - timer()
            if left <= 0:
                flow.close()
                raise DeadlineExceeded(over)
            try:
                answer = yield Limited(call, left)
            except RecsysError as error:
                call = flow.throw(error)
            else:
                call = flow.send(answer)
    except StopIteration as end:
        result: _Result = end.value
        return result
