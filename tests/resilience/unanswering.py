"""Addresses that take connections and say nothing, or do not even take them: hung servers and vanished packets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["silent", "vanishing"]


@contextmanager
def silent() -> Iterator[int]:
    """A port whose connections are taken by the kernel and never answered, as of a process that is stopped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        yield listener.getsockname()[1]


@contextmanager
def vanishing() -> Iterator[int]:
    """A port that drops what is sent to it: its queue of connections is full, so the kernel ignores further ones."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
