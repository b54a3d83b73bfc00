"""Items newer than the served snapshot: the text by which the models know an item."""

from __future__ import annotations

__all__ = ["item_text"]


def item_text(title: str, category: str, brand: str) -> str:
    """The text of an item: what is said of title, category and brand, joined by ``". "``; empty if nothing is.

    Training encodes the same text of every catalogue item as the source ``title``.
    """
    return ". ".join(part for part in (title, category, brand) if part.strip())
