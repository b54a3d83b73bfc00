"""Any Redis commands as one value, for flows that need more of the store than features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Commands"]


@dataclass(frozen=True, slots=True)
class Commands:
    """Redis commands to send in one round trip. Answer: a list of their replies, in order."""

    commands: tuple[tuple[Any, ...], ...]
