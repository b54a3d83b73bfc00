"""Processes of a benchmark that work for it side by side, each at the other end of a pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from recsys_plugin.errors import StepFailed

__all__ = ["SPAWN", "answer_of", "started"]

_Answer = TypeVar("_Answer")

#: Spawned, not forked: gRPC does not survive a fork.
SPAWN = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def started(
    target: Callable[..., None], arguments: Sequence[tuple[Any, ...]], *, what: str, patience: float
) -> Iterator[list[Connection]]:
    """So many processes, one for each of the arguments, all of them ready.

    Each runs ``target(connection, *arguments)``, must send a text once it is ready, and should end when it is sent
    ``None``, as it is at the end of the block, or of itself.

    Args:
        what: names one of them in messages. patience: seconds that one may take to get ready, and to end.

    Raises:
        StepFailed: if one ends before it is ready; an error that one sends instead is raised as it is.
    """
    processes: list[BaseProcess] = []
    connections: list[Connection] = []
    try:
        for given in arguments:
            mine, theirs = SPAWN.Pipe()
            process = SPAWN.Process(target=target, args=(theirs, *given), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(mine)
        for connection in connections:
            answer_of(connection, str, what=what, patience=patience)
        yield connections
        for connection in connections:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended of itself
                connection.send(None)
        for each in processes:
            each.join(timeout=patience)
    finally:
        for each in processes:
            if each.is_alive():
                each.terminate()
            each.join()
        for connection in connections:
            connection.close()


def answer_of(connection: Connection, kind: type[_Answer], *, what: str, patience: float) -> _Answer:
    """What a process sends next; an error that it sends is raised.

    Raises:
        StepFailed: if it ends, or sends nothing for so many seconds.
    """
    try:
        if not connection.poll(patience):
            raise StepFailed(f"{what} gave no answer for {patience:g} s")
        answer = connection.recv()
    except EOFError as error:
        raise StepFailed(f"{what} ended; what it printed above says why") from error
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, kind)
    return answer
