"""The Redis servers that hold a shop's data: one, or every one of a cluster, each asked on its own.

A client of a cluster sends some commands of an administrator to one of its servers only, and cannot rewrite a stream
in a transaction; here each server has a client of its own, and slots that nobody serves, or that move, are noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from recsys_plugin.errors import StepFailed, StoreUnavailable
from recsys_plugin.features.connection import RedisAddress, named_errors

__all__ = ["Server", "Servers", "all_servers"]

_SLOTS = 16_384  # of any cluster: Redis Cluster specification
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Server:
    """One of them: redis-py's ``client`` of it alone, its ``name`` for messages, empty where there is no other."""

    client: Any
    name: str = ""
    local: bool = False
    """Whether it runs on this machine, so that its files can be read."""

    def told(self, text: str) -> str:
        """A sentence about it."""
        return f"{self.name}: {text}" if self.name else text


@dataclass(frozen=True, slots=True)
class Servers:
    """All of them.

    Attributes:
        client: for commands whose key says which of them to ask.
        primaries: each key is on one of these. replicas: they copy a primary, and keep files of their own.
        layout: who has which slots; empty if it is no cluster.
    """

    client: Any
    primaries: tuple[Server, ...]
    replicas: tuple[Server, ...] = ()
    layout: frozenset[tuple[str, str]] = frozenset()

    def holding(self, key: str) -> Any:
        """redis-py's client of the server that a key belongs to."""
        if not self.layout:
            return self.client
        return self.client.get_redis_connection(self.client.get_node_from_key(key))

    def check_layout(self) -> None:
        """See that keys did not move from one server to another meanwhile: between two looks one could be missed.

        Raises:
            StepFailed: if they did. StoreUnavailable: if slots have no server.
        """
        if self.layout and _layout(self.primaries) != self.layout:
            raise StepFailed("slots of the Redis cluster moved meanwhile; run again when it has its final form")


@contextmanager
def all_servers(address: RedisAddress, timeout: float) -> Iterator[Servers]:
    """Connect to every server; redis-py's errors in the block become this package's.

    Args:
        timeout: seconds for connecting and for each reply.

    Raises:
        StoreUnavailable: if one cannot be reached, or slots of a cluster have no server. DeadlineExceeded: if one is
            too slow. StepFailed: if slots of a cluster are being moved.
    """
    with named_errors(address, timeout):
        client: Any = address.connect(timeout)
        try:
            yield (
                _of_cluster(client) if address.kind == "redis_cluster" else Servers(client, (_single(client, address),))
            )
        finally:
            client.close()


def _single(client: Any, address: RedisAddress) -> Server:
    local = address.kind == "redis" and all(host in _LOCAL for host, _ in address.nodes)  # a socket has no host
    return Server(client, local=local)


def _of_cluster(client: Any) -> Servers:
    primaries, replicas = (
        tuple(
            Server(client.get_redis_connection(node), node.name, node.host in _LOCAL)
            for node in sorted(nodes, key=lambda node: str(node.name))
        )
        for nodes in (client.get_primaries(), client.get_replicas())
    )
    return Servers(client, primaries, replicas, _layout(primaries))


def _layout(primaries: tuple[Server, ...]) -> frozenset[tuple[str, str]]:
    """Who has which slots, as each primary says of itself.

    ``CLUSTER NODES`` has a line for each server: id, address, flags, …, and from the ninth word on its slots, ``5-9``;
    a slot in brackets is being moved.
    """
    found: set[tuple[str, str]] = set()
    count = 0
    for server in primaries:
        # Of "CLUSTER NODES" redis-py makes a dictionary that leaves out ids; not of the two words apart.
        said = server.client.execute_command("CLUSTER", "NODES")
        text = said.decode() if isinstance(said, bytes) else str(said)
        mine = next(line.split() for line in text.splitlines() if "myself" in line.split()[2].split(","))
        for slots in mine[8:]:
            if slots.startswith("["):
                raise StepFailed(
                    f"slots of the Redis cluster are being moved ({server.name}: {slots}), so that keys could be "
                    "missed; run again when that is over"
                )
            first, _, last = slots.partition("-")
            count += int(last or first) - int(first) + 1
            found.add((mine[0], slots))
    if count != _SLOTS:
        raise StoreUnavailable(
            f"the Redis cluster has a server for {count:,} of its {_SLOTS:,} slots only; what the others held cannot "
            "be looked at"
        )
    return frozenset(found)
