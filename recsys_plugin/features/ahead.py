"""Taking the next parts of an iterator on a thread of their own, a bounded number ahead of who uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

_Part = TypeVar("_Part")


def ahead(parts: Iterator[_Part], depth: int) -> Generator[_Part]:
    """The same parts in the same order, of which up to ``depth`` are made before they are asked for.

    All are made on one thread, one after the other. It pays where making and using release the interpreter's lock, as
    Arrow, numpy and sockets do. An error of the iterator is raised where the part that it took the place of would have
    come. Whoever stops early should close what this returns; the part being made then is made to its end.

    Args:
        parts: is used by that thread alone until the end.
        depth: 1 or more.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        made: deque[Future[_Part | object]] = deque(thread.submit(next, parts, end) for _ in range(depth))
        try:
            while (part := made.popleft().result()) is not end:
                made.append(thread.submit(next, parts, end))
                yield part  # type: ignore[misc]
        finally:
            thread.shutdown(wait=True, cancel_futures=True)
