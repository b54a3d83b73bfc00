"""What keeps others out: Redis users with few rights, digests and signatures of models. The client imports none of it."""

from __future__ import annotations

__all__: list[str] = []
