"""How the event streams stand: what waits in them, who works on them, and what became of events so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recsys_plugin.errors import StoreUnavailable
from recsys_plugin.events.keys import PARTITIONS, EventKeys
from recsys_plugin.features.connection import RedisAddress, named_errors

__all__ = ["EventStatus", "PartitionStatus", "event_status"]

_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One stream of events."""

    partition: int
    length: int
    """Entries in the stream, those that nobody needs any more included."""
    lag: int
    """Entries that `recsys stream` has not acknowledged."""
    not_archived: int
    """Entries that `recsys events archive` has not acknowledged."""
    owner: str | None
    """The worker whose lease runs."""


@dataclass(frozen=True, slots=True)
class EventStatus:
    """Everything at one moment."""

    partitions: tuple[PartitionStatus, ...]
    counts: dict[str, int]
    """Outcome → events, since the project began."""
    workers: dict[str, float]
    """Worker → its last sign of life, unix seconds."""
    dead_letters: int
    impressions: int
    impressions_not_archived: int

    @property
    def lag(self) -> int:
        """Entries of all partitions that `recsys stream` has not acknowledged."""
        return sum(partition.lag for partition in self.partitions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "lag": self.lag}


def event_status(address: RedisAddress, *, project: str = "recsys", timeout: float = _TIMEOUT) -> EventStatus:
    """Ask Redis.

    Args:
        timeout: seconds that connecting and each answer may take.

    Raises:
        StoreUnavailable, DeadlineExceeded: if it does not answer, or its user may not ask: the command is named then.
    """
    keys = EventKeys(project)
    with named_errors(address, timeout):
        client: Any = address.connect(timeout)
        ask = _Ask(client, address)
        try:
            partitions = []
            for number in range(PARTITIONS):
                stream, owner = keys.events(number), ask("get", keys.owner(number))
                length, behind = _behind(ask, stream)
                partitions.append(
                    PartitionStatus(
                        number,
                        length,
                        behind.get("profiles", length),
                        behind.get("archive", length),
                        None if owner is None else owner.decode(errors="replace"),
                    )
                )
            impressions, behind = _behind(ask, keys.impressions)
            return EventStatus(
                tuple(partitions),
                {name.decode(): int(count) for name, count in sorted(ask("hgetall", keys.counts).items())},
                {name.decode(): float(at) for name, at in ask("zrange", keys.workers, 0, -1, withscores=True)},
                ask("xlen", keys.dead),
                impressions,
                behind.get("archive", impressions),
            )
        finally:
            client.close()


class _Ask:
    """Asks one server, and names what it refuses: of a key, Redis itself does not say which."""

    def __init__(self, client: Any, address: RedisAddress) -> None:
        self._client, self._address = client, address

    def __call__(self, command: str, key: str, *arguments: Any, **options: Any) -> Any:
        import redis

        try:
            return getattr(self._client, command)(key, *arguments, **options)
        except redis.exceptions.NoPermissionError as error:
            asked = f"{command.upper().replace('_', ' ')} {key}"
            raise StoreUnavailable(f"{self._address!r} refuses {asked}: {error}") from error


def _behind(ask: _Ask, stream: str) -> tuple[int, dict[str, int]]:
    """The length of a stream, and how many entries each of its groups has not acknowledged."""
    import redis

    length = ask("xlen", stream)
    try:
        groups = ask("xinfo_groups", stream)
    except redis.ResponseError:  # no such key: nothing was ever recorded
        return length, {}
    behind = {}
    for group in groups:
        lag = group.get("lag")
        if lag is None:  # the server lost count, as it does when entries in the middle are deleted
            lag = _after(ask, stream, group["last-delivered-id"].decode())
        behind[group["name"].decode()] = int(lag) + int(group["pending"])
    return length, behind


def _after(ask: _Ask, stream: str, entry: str) -> int:
    count, start = 0, f"({entry}"
    while found := ask("xrange", stream, min=start, count=1000):
        count += len(found)
        start = f"({found[-1][0].decode()}"
    return count
