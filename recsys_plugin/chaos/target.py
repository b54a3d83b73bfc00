"""The servers that are broken on purpose: embedded ones of a home made for it, each with a proxy before it.

A shop's own servers are never touched: :func:`copied_home` makes a home that holds what serving needs, linked or
copied, and :func:`started` brings up servers of its own there.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recsys_plugin.bench.processes import SPAWN
from recsys_plugin.bench.shop import Tell
from recsys_plugin.chaos.proxy import Link, Proxies, proxies
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.ports import LOOPBACK, PortBook
from recsys_plugin.runtime.processes import ServerProcess, marked_processes, termination_as_interrupt
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.triton_server import EmbeddedTriton
from recsys_plugin.settings import Settings

__all__ = ["REDIS", "SERVERS", "TRITON", "FragileRedis", "Target", "copied_home", "proxied", "started"]

REDIS, TRITON = SERVERS = ("redis", "triton")

#: A write beyond a limit must fail, as on a full disk, and not end the server; what is ignored stays so over exec.
_IGNORE_XFSZ = ("/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh")


#: Seconds that a server may take to end in order; Triton would wait for connections left half open.
_GRACE = 3.0
#: Seconds that helpers go on before their server does.
_HELPERS_AHEAD = 0.1


class FragileRedis(EmbeddedRedis):
    """The embedded Redis, started so that its disk can be made to look full, see
    :class:`~recsys_plugin.chaos.faults.FullDisk`."""

    def _command(self, port: int) -> list[str]:
        return [*_IGNORE_XFSZ, *super()._command(port)]


@dataclass(slots=True)
class Target:
    """Two running servers, the proxies before them, and the clock of those who ask.

    Attributes:
        redis, triton: the servers. links: the proxies before them, named as in :data:`SERVERS`.
        clock_offset: seconds that the clock of those who ask is ahead, shared with their processes.
        settings: of the home, if there is one.
    """

    redis: EmbeddedRedis
    triton: EmbeddedTriton
    links: Proxies
    clock_offset: Synchronized[float]
    settings: Settings | None = None

    @property
    def redis_url(self) -> str:
        """Redis through its proxy."""
        return f"redis://{LOOPBACK}:{self.links.ports[REDIS]}/0"

    @property
    def triton_url(self) -> str:
        """Triton through its proxy."""
        return f"grpc://{LOOPBACK}:{self.links.ports[TRITON]}"

    def process(self, server: str) -> ServerProcess:
        """One of the servers."""
        return self.redis.process if server == REDIS else self.triton.process

    def link(self, server: str, link: Link) -> None:
        """Change what happens on the way to a server."""
        self.links.set(server, link)

    def kill(self, server: str) -> None:
        """End a server and all its helpers with SIGKILL, and wait until they are gone."""
        process = self.process(server)
        with process.lock():
            record = process.record
            if record is not None:
                os.kill(record.pid, signal.SIGKILL)
            process.stop(grace_seconds=0.0)

    def stop(self, server: str) -> None:
        """Stop a server in order."""
        with self.process(server).lock():
            (self.redis if server == REDIS else self.triton).stop()

    def start(self, server: str) -> None:
        """Start a server on its port, and wait until it answers."""
        with self.process(server).lock():
            (self.redis if server == REDIS else self.triton).start()

    def freeze(self, server: str) -> None:
        """Stop a server and all its helpers with SIGSTOP, as a paused container or virtual machine is."""
        for pid in marked_processes(self.process(server).mark):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self, server: str) -> None:
        """Let a server and all its helpers go on, the helpers first.

        The Python backend of Triton takes a helper for dead that said nothing since it was last looked after, and then
        ends the whole server (SIGSEGV in ``libtriton_python.so``, seen in every other run with Triton 2.51).
        """
        pids, record = marked_processes(self.process(server).mark), self.process(server).record
        helpers = [pid for pid in pids if record is None or pid != record.pid]
        for pid in helpers:
            os.kill(pid, signal.SIGCONT)
        if record is not None:
            time.sleep(_HELPERS_AHEAD if helpers else 0.0)
            os.kill(record.pid, signal.SIGCONT)

    def dead(self) -> list[str]:
        """The servers that ended by themselves, and the end of what each wrote."""
        found = []
        for server in SERVERS:
            process = self.process(server)
            if not process.running:
                # Triton's helpers write that they miss it, after its own last words.
                lines = [line for line in process.log_since_start().splitlines() if "pb_stub" not in line]
                words = " | ".join(lines[-3:])
                found.append(f"{server} ended by itself; its log ends with: {words or 'nothing'}")
        return found

    @contextmanager
    def store(self, timeout: float = 5.0) -> Iterator[Any]:
        """A connection to Redis, not by way of the proxy."""
        client: Any = RedisAddress.parse(self.redis.url).connect(timeout)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def proxied(redis: EmbeddedRedis, triton: EmbeddedTriton, settings: Settings | None = None) -> Iterator[Target]:
    """Proxies before two servers that run; they pass everything on until told otherwise."""
    servers = {REDIS: urlsplit(redis.url).port, TRITON: urlsplit(triton.url).port}
    ports, _ = PortBook(redis.process.state).free([f"proxy-{name}" for name in SERVERS])
    routes = {name: (ports[f"proxy-{name}"], port) for name, port in servers.items() if port is not None}
    with proxies(routes) as links:
        yield Target(redis, triton, links, SPAWN.Value("d", 0.0), settings)


@contextmanager
def copied_home(settings: Settings, *, scratch: Path | None = None) -> Iterator[Settings]:
    """A temporary home with what serving needs of another: its models, its store's data and its known answers.

    Files are linked where that is possible; whoever changes one replaces it, so that the other home keeps its own.

    Args:
        settings: name the home.
        scratch: where the temporary one is made; the system's place for temporary files if ``None``.

    Raises:
        ConfigurationError: if there is nothing to serve in the home yet.
    """
    data, known = settings.state / "redis", settings.state / "export"
    if not known.is_dir() or not data.is_dir():
        raise ConfigurationError(
            f"{settings.home} has nothing to serve yet; run `recsys demo`, or the steps up to export"
        )
    home = Path(tempfile.mkdtemp(prefix="recsys-chaos-", dir=scratch))
    try:
        own = replace(settings, home=home, redis_url=None, triton_url=None, spool=None)
        _link_tree(settings.model_repository, own.model_repository)
        _link_tree(known, own.state / "export")
        if settings.tables.is_dir():
            _link_tree(settings.tables, own.tables)
        # The append-only file grows in place: a link would write into the other home.
        shutil.copytree(data, own.state / "redis")
        yield own
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def started(settings: Settings, *, own: bool = False, tell: Tell) -> Iterator[Target]:
    """Servers of a home, with proxies before them; what was started is stopped in the end.

    Args:
        settings: name the home.
        own: whether it is a shop's own, whose servers may run; else they are started so that everything can be done to
            them, see :class:`FragileRedis`.
        tell: told what is under way.

    Raises:
        ConfigurationError: if a server is not an embedded one.
        RecsysError: as :meth:`Services.up`.
    """
    services = Services(settings)
    if not (services.redis_is_embedded and services.triton_is_embedded):
        raise ConfigurationError("only embedded servers can be broken: unset RECSYS_REDIS_URL and RECSYS_TRITON_URL")
    if not own:
        services.redis = FragileRedis(settings.state)
    ran = {server.process.name for server in (services.redis, services.triton) if server.process.running}
    with termination_as_interrupt(), ExitStack() as undo:
        undo.callback(_stop_all_but, services, ran)
        services.up(note=lambda text: tell(text, 0, 0))
        yield undo.enter_context(proxied(services.redis, services.triton, settings))


def _stop_all_but(services: Services, ran: Collection[str]) -> None:
    for server in (services.triton, services.redis):
        if server.process.name not in ran:
            with server.process.lock():
                server.stop(grace_seconds=_GRACE)


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
