"""What the awaiting client does for a shop besides products."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping
from typing import Any, TypeVar

from recsys_plugin.client.arguments import checked_stock
from recsys_plugin.client.base import ClientBase
from recsys_plugin.client.following import written
from recsys_plugin.features.item_stock import stock_commands

__all__ = ["AsyncShelves"]

_Result = TypeVar("_Result")


class AsyncShelves(ClientBase):
    """A part of the awaiting client."""

    async def set_stock(self, stock: Mapping[Any, int], *, timeout: float | None = None) -> None:
        """See :meth:`Shelves.set_stock`."""
        commands = stock_commands(self._project, checked_stock(stock), now=self._clock())
        if commands:
            await self._run(written(commands), self._seconds(timeout))

    @abstractmethod
    async def _run(self, flow: Generator[Any, Any, _Result], timeout: float) -> _Result:
        """Drive a flow to its end."""
