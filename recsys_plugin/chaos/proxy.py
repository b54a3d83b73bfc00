"""A TCP proxy on loopback that delays, holds, cuts and resets what passes through it.

It is a process of its own: forwarding must not share an interpreter lock with those whose time is measured. Each link
leads from one port to one server; what happens to its bytes is a :class:`Link`, which can be changed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from recsys_plugin.bench.processes import answer_of, started
from recsys_plugin.errors import InvalidInput
from recsys_plugin.runtime.ports import LOOPBACK

__all__ = ["Direction", "Link", "Proxies", "proxies"]

_WHAT = "the proxy's process"
_PATIENCE = 30.0
_CHUNK = 1 << 16
#: Chunks of one direction that are taken before they can be passed on; then the sender has to wait.
_MOST_CHUNKS = 64
#: ``SO_LINGER`` of 0 seconds: closing sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Direction:
    """What happens to the bytes that go one way.

    Attributes:
        latency: seconds by which each is late.
        held: whether none arrives; once it ends, what was sent meanwhile does, as after lost packets.
        bytes_per_second: how fast they go; ``None`` for as fast as they come.
        cut_after: the connection ends after so many bytes of it; ``None`` for never.
    """

    latency: float = 0.0
    held: bool = False
    bytes_per_second: float | None = None
    cut_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.latency < float("inf"):
            raise InvalidInput(f"latency: {self.latency} is not a number of seconds of 0 or more")
        if self.bytes_per_second is not None and not self.bytes_per_second > 0:
            raise InvalidInput(f"bytes_per_second: {self.bytes_per_second} is not above 0")
        if self.cut_after is not None and self.cut_after < 0:
            raise InvalidInput(f"cut_after: {self.cut_after} is less than 0")


@dataclass(frozen=True, slots=True)
class Link:
    """What happens on the way to one server.

    Attributes:
        to_server, to_client: the two directions.
        refused: whether nobody listens: connections are refused, and those that there were are reset.
    """

    to_server: Direction = Direction()
    to_client: Direction = Direction()
    refused: bool = False


@dataclass(frozen=True, slots=True)
class _Order:
    """Sent to the proxy's process: what a link is to be, or (with ``None``) how many connections it has."""

    name: str
    link: Link | None


class Proxies:
    """The links of one proxy process, by name."""

    def __init__(self, connection: Connection, ports: Mapping[str, int]) -> None:
        self._connection = connection
        self.ports = dict(ports)

    def set(self, name: str, link: Link) -> None:
        """Change a link, for connections that there are and for those to come; it holds once this returns."""
        self._ask(_Order(name, link))

    def connections(self, name: str) -> int:
        """How many connections a link has."""
        return self._ask(_Order(name, None))

    def _ask(self, order: _Order) -> int:
        self._connection.send(order)
        return answer_of(self._connection, int, what=_WHAT, patience=_PATIENCE)


@contextmanager
def proxies(routes: Mapping[str, tuple[int, int]]) -> Iterator[Proxies]:
    """Start a process that listens on loopback and passes on, until the block ends.

    Args:
        routes: name of the link → the loopback port to listen on and the one that it leads to. Choose the first below
            the range from which the kernel takes ports for outgoing connections: a refused link must get it again.

    Raises:
        StepFailed: if it cannot listen.
    """
    with started(_serve, [(dict(routes),)], what=_WHAT, patience=_PATIENCE) as (connection,):
        yield Proxies(connection, {name: port for name, (port, _) in routes.items()})


def _serve(connection: Connection, routes: Mapping[str, tuple[int, int]]) -> None:
    """The process: pass on until ``None`` comes, or whoever started it is gone."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(connection, routes))


async def _run(connection: Connection, routes: Mapping[str, tuple[int, int]]) -> None:
    ways = {name: _Way(port, server) for name, (port, server) in routes.items()}
    for way in ways.values():
        await way.listen()
    loop = asyncio.get_running_loop()
    connection.send("ready")
    while True:
        # A thread of its own waits for orders, so that the loop goes on passing bytes.
        try:
            order = await loop.run_in_executor(None, connection.recv)
        except EOFError:
            order = None
        if order is None:
            break
        way = ways[order.name]
        if order.link is not None:
            await way.change(order.link)
        connection.send(len(way.writers) // 2)
    for way in ways.values():
        await way.change(Link(refused=True))


class _Way:
    """One link, and the connections on it."""

    def __init__(self, port: int, server: int) -> None:
        self._port = port
        self._server = server
        self._listener: asyncio.Server | None = None
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.link = Link()
        #: Two for each connection: towards the client and towards the server.
        self.writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, self._port)

    async def change(self, link: Link) -> None:
        self.link = link
        async with self._changed:
            self._changed.notify_all()
        if link.refused and self._listener is not None:
            self._listener.close()
            self._listener = None
            for writer in list(self.writers):
                _reset(writer)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        elif not link.refused and self._listener is None:
            await self.listen()

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.writers.add(to_client)
        to_server: asyncio.StreamWriter | None = None
        try:
            from_server, to_server = await asyncio.open_connection(LOOPBACK, self._server)
            self.writers.add(to_server)
            ways = (
                asyncio.ensure_future(self._pass_on(from_client, to_server, "to_server")),
                asyncio.ensure_future(self._pass_on(from_server, to_client, "to_client")),
            )
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            # The server is not there, or the link was refused: the client sees its connection reset.
            _reset(to_client)
        finally:
            for writer in (to_client, to_server):
                if writer is not None:
                    self.writers.discard(writer)
                    writer.close()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        """Pass bytes one way until either end closes. A line between taking and giving lets latency not cost rate."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_CHUNKS)
        giver = asyncio.ensure_future(self._give(line, writer, direction))
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(_CHUNK):
                await line.put((loop.time() + self._now(direction).latency, data))
            await line.put((loop.time(), b""))
            await giver
        except ConnectionError:
            return
        finally:
            giver.cancel()
            await asyncio.gather(giver, return_exceptions=True)

    async def _give(
        self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, direction: str
    ) -> None:
        loop, given = asyncio.get_running_loop(), 0
        with contextlib.suppress(ConnectionError):
            while True:
                due, data = await line.get()
                if not data:
                    return
                if (pause := due - loop.time()) > 0:
                    await asyncio.sleep(pause)
                while self._now(direction).held:
                    async with self._changed:
                        await self._changed.wait_for(lambda: not self._now(direction).held)
                now = self._now(direction)
                if now.cut_after is not None:
                    data = data[: max(0, now.cut_after - given)]
                given += len(data)
                writer.write(data)
                await writer.drain()
                if now.bytes_per_second is not None:
                    await asyncio.sleep(len(data) / now.bytes_per_second)
                if now.cut_after is not None and given >= now.cut_after:
                    writer.close()
                    return

    def _now(self, direction: str) -> Direction:
        return self.link.to_server if direction == "to_server" else self.link.to_client


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST, what was not sent yet dropped."""
    connected = writer.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
