"""From scores to a page: pure functions over numpy arrays."""

from __future__ import annotations

from recsys_plugin.policy.page import SearchBlend, best_first

__all__ = ["SearchBlend", "best_first"]
