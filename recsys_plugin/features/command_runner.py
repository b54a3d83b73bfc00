"""Flows that need nothing but Redis commands, driven against one server: for people and for what works like them."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self, TypeVar

from recsys_plugin.features.commands import Commands
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.reader import FeatureReader

__all__ = ["CommandRunner"]

_Result = TypeVar("_Result")


class CommandRunner:
    """A connection that performs commands, and flows of them.

    Args:
        redis_url: see :mod:`recsys_plugin.features.connection`.
        timeout: seconds that a round trip may take.

    Raises, from every method: ``StoreUnavailable`` and ``DeadlineExceeded`` for Redis.
    """

    def __init__(self, redis_url: str, *, timeout: float) -> None:
        self._reader, self._timeout = FeatureReader(RedisAddress.parse(redis_url), timeout=timeout), timeout

    def perform(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        """The replies to some commands, sent in one round trip."""
        return self._reader.execute(commands, timeout=self._timeout)

    def run(self, flow: Generator[Commands, list[Any], _Result]) -> _Result:
        """What a flow comes to."""
        try:
            call = next(flow)
            while True:
                call = flow.send(self.perform(call.commands))
        except StopIteration as end:
            result: _Result = end.value
            return result

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
