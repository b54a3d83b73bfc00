"""What keeps others out: Redis users with few rights, secrets from files, digests and signatures of models, limits.

The thin client imports only :mod:`recsys_plugin.security.secrets` and :mod:`recsys_plugin.limits`; the rest is for
operators. Who could do what, and what stops them, is in ``threat_model.md`` of this folder.
"""

from __future__ import annotations

__all__: list[str] = []
