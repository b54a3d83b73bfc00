"""What keeps others out: Redis users with few rights, digests and signatures of models; for operators, not clients."""

from __future__ import annotations

__all__: list[str] = []
