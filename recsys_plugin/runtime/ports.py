"""Loopback ports, chosen once per state folder, so that the servers' URLs stay the same between runs."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recsys_plugin.errors import StepFailed
from recsys_plugin.runtime.processes import file_lock, write_atomically

__all__ = ["LOOPBACK", "PortBook", "port_is_free"]

LOOPBACK = "127.0.0.1"

# Below the range from which the kernel takes ports for outgoing connections (32768 and up), so that no
# connection of anybody's occupies a remembered port while the server is down.
_LOWEST, _HIGHEST = 20_000, 32_000
# A server that was killed is gone from the table of processes before the kernel has closed its sockets, all the more
# when it had much memory or the machine is busy: for so many seconds its port may yet be let go of.
_PATIENCE_SECONDS, _POLL_SECONDS = 5.0, 0.005


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _becomes_free(port: int) -> bool:
    """The same, after waiting for whoever is just ending."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not port_is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


class PortBook:
    """The ports of one state folder: ``run/ports.json``, server and use -> number.

    The first choice follows from the folder's path, so two checkouts rarely meet and a deleted state folder
    gets the same ports again.
    """

    def __init__(self, state: Path) -> None:
        self._path = state.resolve() / "run" / "ports.json"
        self._lock = self._path.with_suffix(".lock")
        self._seed = int.from_bytes(hashlib.sha256(str(state.resolve()).encode()).digest()[:4], "big")

    def known(self, name: str) -> int:
        """The port called ``name`` (such as ``triton-grpc``), chosen now if never chosen before."""
        return self._choose([name], is_acceptable=lambda port: True)[0][name]

    def free(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """Ports on which a server can listen now: the remembered ones, others where those are taken.

        Returns:
            name -> port, and one sentence for each port that had to change.
        """
        return self._choose(names, is_acceptable=_becomes_free)

    def _choose(
        self, names: Sequence[str], *, is_acceptable: Callable[[int], bool]
    ) -> tuple[dict[str, int], list[str]]:
        with file_lock(self._lock):
            book = self._read()
            notes = []
            for name in names:
                remembered = book.get(name)
                if remembered is not None and is_acceptable(remembered):
                    continue
                book[name] = self._next_free(avoid=set(book.values()))
                if remembered is not None:
                    notes.append(f"port {remembered} for {name} is taken by another program; it is {book[name]} now")
            write_atomically(self._path, json.dumps(book, indent=2) + "\n")
            return {name: book[name] for name in names}, notes

    def _read(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        try:
            book = json.loads(self._path.read_text())
            return {str(name): int(port) for name, port in book.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise StepFailed(f"{self._path} is not a table of ports ({error}); delete it") from error

    def _next_free(self, avoid: set[int]) -> int:
        span = _HIGHEST - _LOWEST
        for step in range(span):
            port = _LOWEST + (self._seed + step) % span
            if port not in avoid and port_is_free(port):
                return port
        raise StepFailed(f"no free loopback port between {_LOWEST} and {_HIGHEST}")
