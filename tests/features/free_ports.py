"""A port for a server of a test."""

from __future__ import annotations

import random
import socket

__all__ = ["free_port"]

#: Below those that embedded servers have, and far below those that the kernel takes for outgoing connections: none of
#: either takes the port before whoever asked for it does.
_LOWEST, _HIGHEST = 10_000, 20_000
_random = random.SystemRandom()


def free_port() -> int:
    """One that nobody listens on."""
    while True:
        port = _random.randrange(_LOWEST, _HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
