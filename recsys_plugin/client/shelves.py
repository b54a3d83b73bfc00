"""What the blocking client does for a shop besides products."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping
from typing import Any, TypeVar

from recsys_plugin.client.arguments import checked_stock
from recsys_plugin.client.base import ClientBase
from recsys_plugin.client.following import written
from recsys_plugin.features.item_stock import stock_commands

__all__ = ["Shelves"]

_Result = TypeVar("_Result")


class Shelves(ClientBase):
    """A part of the blocking client."""

    def set_stock(self, stock: Mapping[Any, int], *, timeout: float | None = None) -> None:
        """Tell the feature store how many of some items can be sold now: what is at 0 leaves the pages of all clients.

        Args:
            stock: item id → units, at most 10,000 items. timeout: seconds for this call.

        Raises:
            InvalidInput: for anything that is no id or no whole number from 0 on.
            StoreUnavailable, DeadlineExceeded: for Redis; some of the items may have been written.
        """
        commands = stock_commands(self._project, checked_stock(stock), now=self._clock())
        if commands:
            self._run(written(commands), self._seconds(timeout))

    @abstractmethod
    def _run(self, flow: Generator[Any, Any, _Result], timeout: float) -> _Result:
        """Drive a flow to its end."""
