"""Several workers as processes of one command: started together, started again when they die, ended together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

from recsys_plugin.errors import StepFailed
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.features.plan import ReadSchema
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings
from recsys_plugin.stream.worker import StreamWorker

__all__ = ["run_workers", "stored_schema"]

_log = logging.getLogger("recsys_plugin")

#: Seconds until a worker that died is started again, and the most that it may take to end.
_AGAIN_SECONDS, _END_SECONDS = 1.0, 15.0
_LOOK_SECONDS = 0.1
#: A worker that dies so often in a row, having lived less than a minute each time, will not live.
_MOST_DEATHS = 10
_LIVED_SECONDS = 60.0


def stored_schema(address: RedisAddress, project: str, *, timeout: float = 5.0) -> dict[str, str]:
    """The feature types that ``recsys apply`` and ``materialize`` published.

    Raises:
        StepFailed: if they never ran.
        StoreUnavailable, DeadlineExceeded: if Redis cannot be reached.
    """
    reader = FeatureReader(address, timeout=timeout)
    try:
        schema = reader.read_schema(ReadSchema(project), timeout=timeout)
    finally:
        reader.close()
    if schema is None:
        raise StepFailed(f"{address!r} has no feature schema of project {project!r}. Run `recsys materialize` first")
    return schema


def run_workers(
    redis_url: str,
    project: str,
    count: int,
    *,
    stopping: threading.Event,
    until_idle: bool = False,
    look: Callable[[], None] = lambda: None,
    died: Callable[[], None] = lambda: None,
) -> None:
    """Run workers until ``stopping`` is set or, with ``until_idle``, until there is nothing left to do.

    A worker that dies is started again after a second; what it had not committed is done again.

    Args:
        look: called several times a second. died: called for each worker that died.

    Raises:
        StepFailed: if a worker dies again and again.
    """
    context = multiprocessing.get_context("spawn")
    deaths, born = [0] * count, [0.0] * count

    def start(number: int) -> SpawnProcess:
        process = context.Process(
            target=_work, args=(redis_url, project, until_idle, os.getpid()), name=f"recsys-stream-{number}"
        )
        process.start()
        born[number] = time.monotonic()
        return process

    processes: list[SpawnProcess | None] = [start(number) for number in range(count)]
    try:
        while not stopping.wait(_LOOK_SECONDS):
            look()
            for number, process in enumerate(processes):
                if process is None or process.exitcode is None:
                    continue
                if process.exitcode == 0:
                    processes[number] = None
                    continue
                died()
                lived = time.monotonic() - born[number]
                deaths[number] = 1 if lived > _LIVED_SECONDS else deaths[number] + 1
                if deaths[number] > _MOST_DEATHS:
                    raise StepFailed(
                        f"stream worker {number} died {deaths[number]} times in a row, exit code {process.exitcode}; "
                        "its errors are above"
                    )
                _log.warning("stream worker %d died with exit code %s; it is started again", number, process.exitcode)
                stopping.wait(_AGAIN_SECONDS)
                processes[number] = start(number)
            if all(process is None for process in processes):
                return
    finally:
        for process in processes:
            if process is not None and process.is_alive():
                process.terminate()
        for process in processes:
            if process is not None:
                process.join(_END_SECONDS)
                if process.is_alive():
                    process.kill()
                    process.join()


def _work(redis_url: str, project: str, until_idle: bool, parent: int) -> None:
    """The body of a worker's process; it ends when it is told to, and when its parent is gone."""
    address = RedisAddress.parse(redis_url)
    key = Settings.from_environment().pseudonym_key
    names = None if key is None else Pseudonyms(key)
    with named_errors(address, 5.0):
        worker = StreamWorker(address, project, schema=stored_schema(address, project), names=names)

    def stop(*_: Any) -> None:
        worker.stop()

    signal.signal(signal.SIGTERM, stop)
    # Ctrl-C reaches every process of the terminal; the parent tells the workers when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def look(_: object) -> None:
        if os.getppid() != parent:
            worker.stop()

    worker.run(until_idle=until_idle, after=look)
    worker.close()
