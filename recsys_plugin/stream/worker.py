"""One worker: reads the streams of its partitions and commits each batch as one transaction."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from recsys_plugin.consent.refusals import Refusals
from recsys_plugin.errors import ConfigurationError, RecsysError, ServiceUnavailable, StoreUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.features.item_facts import ItemPlan
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.stream.categories import ItemCategories
from recsys_plugin.stream.entries import GROUP, Entry, Transaction
from recsys_plugin.stream.items import ItemFold
from recsys_plugin.stream.leases import PartitionLeases
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.users import UserFold

__all__ = ["StreamWorker", "WorkerCounts"]

_log = logging.getLogger("recsys_plugin")

#: Entries taken from each partition at a time.
_BATCH = 200
#: Seconds that a worker waits for events before it looks after its partitions.
_WAIT_SECONDS = 0.2
#: Seconds between two looks at what was done with items: their rows need not follow each act at once.
_ITEMS_SECONDS = 0.25
#: Seconds between two looks for entries that were handed out and never finished.
_CLAIM_SECONDS = 5.0
#: An entry that was handed out so often is looked at on its own ...
_ALONE_AFTER = 3
#: ... and if that fails too, it is what breaks the workers.
_DEAD_AFTER = 6
_AWAY_SECONDS = 0.2


@dataclass(slots=True)
class WorkerCounts:
    """What a worker has done so far."""

    entries: int = 0
    batches: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


class StreamWorker:
    """Folds events into the live views; belongs to one thread, but :meth:`stop` may be called from anywhere.

    Args:
        address: where Redis is: one server or sentinels. In a cluster, transactions cannot reach across slots.
        project: the Feast project.
        schema: reference → type of every feature of the store, which the live views must match.
        timeout: seconds for making a connection and for each answer.
        clock: unix seconds, for dead letters.
        names: by which people who were forgotten are recognised.

    Raises:
        ConfigurationError: for a cluster; in work, if people were forgotten and ``names`` cannot tell who.
        FeatureContractError: if the store's live views have other types than the stream writes.
        StoreUnavailable, DeadlineExceeded: if Redis cannot be reached at the start. Later it waits for it.
    """

    def __init__(
        self,
        address: RedisAddress,
        project: str,
        *,
        schema: dict[str, str],
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
        names: Pseudonyms | None = None,
    ) -> None:
        if address.kind == "redis_cluster":
            raise ConfigurationError(
                f"{address!r}: the event stream needs one server or sentinels, for its transactions; in a cluster they "
                "cannot reach across slots"
            )
        self._address, self._timeout, self._keys = address, timeout, EventKeys(project)
        self._client: Any = None
        self._connection: Any = None
        self._stopping = threading.Event()
        self.counts = WorkerCounts()
        rows = LiveRows(project)
        rows.check(schema)
        name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        categories = ItemCategories(self._ask, ItemPlan(project), time.monotonic)
        refusals = Refusals(self._ask, self._keys, names)
        self._users = UserFold(self._ask, self._keys, rows, categories, refusals, lambda: int(clock() * 1_000_000))
        self._items = ItemFold(self._ask, self._keys, rows)
        self._clock = clock
        self._leases = PartitionLeases(self._ask, self._keys, name, time.monotonic)
        self._claimed = self._looked_at_items = float("-inf")
        with named_errors(address, timeout):
            self._connect()

    @property
    def name(self) -> str:
        """What the worker is called in Redis."""
        return self._leases.worker

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that it owns at present."""
        return frozenset(self._leases.owned)

    def run(self, *, until_idle: bool = False, after: Callable[[WorkerCounts], None] = lambda counts: None) -> None:
        """Work until :meth:`stop`, or until nothing is left to do.

        While Redis is away it waits and tries again. What was not committed is read anew then.

        Args:
            until_idle: whether to end when every partition that it owns is empty.
            after: called after each batch and each wait.
        """
        try:
            while not self._stopping.is_set():
                try:
                    done = self.step()
                except ServiceUnavailable as error:
                    self._start_again(error)
                    continue
                after(self.counts)
                if until_idle and not done and self._leases.owned and self._nothing_left():
                    return
        finally:
            self._leave()

    def stop(self) -> None:
        """Let :meth:`run` end after the batch that is under way."""
        self._stopping.set()

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def step(self) -> int:
        """Look after the partitions, and do one batch if there is one.

        Returns:
            How many entries were done with.

        Raises:
            StoreUnavailable, DeadlineExceeded: if Redis is away; call again later.
        """
        with named_errors(self._address, self._timeout):
            if self._connection is None:
                self._connect()
            try:
                gained, lost = self._leases.tend()
                if lost:
                    self._users.forget(lost)
                    self._items.forget(lost)
                done = self._take_over(gained) if gained else 0
                if time.monotonic() - self._claimed > _CLAIM_SECONDS:
                    done += self._claim(self._leases.owned, idle=_CLAIM_SECONDS)
                if not self._leases.owned:
                    self._stopping.wait(_WAIT_SECONDS)
                    return done
                return done + self._new_events() + self._new_item_acts()
            except BaseException:
                # Answers may still be under way, and what is at hand may differ from what Redis has.
                self._disconnect()
                self._forget_everything()
                raise

    # What follows runs within ``step``.

    def _new_events(self) -> int:
        wait = max(1, int(1000 * min(_WAIT_SECONDS, self._items_due())))
        return self._work(self._users, self._read(self._users, wait))

    def _new_item_acts(self) -> int:
        if self._items_due() > 0:
            return 0
        self._looked_at_items = time.monotonic()
        return self._work(self._items, self._read(self._items, None))

    def _items_due(self) -> float:
        return max(0.0, self._looked_at_items + _ITEMS_SECONDS - time.monotonic())

    def _read(self, fold: UserFold | ItemFold, wait: int | None) -> list[Entry]:
        streams = {fold.stream(number): number for number in sorted(self._leases.owned)}
        blocking = () if wait is None else ("BLOCK", wait)
        command = ("XREADGROUP", "GROUP", GROUP, self.name, "COUNT", _BATCH, *blocking, "STREAMS", *streams)
        (answer,) = self._ask([(*command, *(">" for _ in streams))])
        return [
            Entry(name, streams[name], entry_id, _fields(fields))
            for stream, entries in answer or ()
            for name in (stream.decode(),)
            for entry_id, fields in entries
            if fields is not None
        ]

    def _work(self, fold: UserFold | ItemFold, entries: list[Entry]) -> int:
        """Fold and commit; nothing of it is done if the partitions are not all ours any more."""
        if not entries:
            return 0
        transaction = Transaction(self._keys)
        fold.fold(entries, transaction)
        if not self._commit(transaction, {entry.partition for entry in entries}):
            self._forget_everything()
            return 0
        self.counts.entries += len(entries)
        self.counts.batches += 1
        for outcome, count in transaction.outcomes.items():
            self.counts.outcomes[outcome] = self.counts.outcomes.get(outcome, 0) + count
        return len(entries)

    def _commit(self, transaction: Transaction, partitions: Iterable[int]) -> bool:
        owners = [self._keys.owner(number) for number in sorted(partitions)]
        revision = self._keys.refusals
        _, (*held, forgotten) = self._ask([("WATCH", *owners, revision), ("MGET", *owners, revision)])
        if any(owner != self.name.encode() for owner in held):
            self._ask([("UNWATCH",)])
            _log.warning("%s lost partitions to another worker; it begins again", self.name)
            return False
        if transaction.checked and forgotten != transaction.revision:
            # Somebody was forgotten since his events were let in: what is to be written may hold them.
            self._ask([("UNWATCH",)])
            return False
        commands = transaction.whole()
        *_, answers = self._ask([("MULTI",), *commands, ("EXEC",)])
        if answers is None:
            _log.info("%s begins again: it lost partitions to another worker, or somebody was forgotten", self.name)
            return False
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, Exception):
                raise StoreUnavailable(f"{self._address!r}: {command[0]} {_family(command[1])}: {answer}")
        return True

    def _take_over(self, gained: set[int]) -> int:
        """Partitions that are ours from now on: their groups, and what their former owner left unfinished."""
        import redis

        for number in sorted(gained):
            for stream in (self._users.stream(number), self._items.stream(number)):
                try:
                    self._ask([("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")])
                except redis.ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):
                        raise
        done = self._claim(gained, idle=0.0)
        self._forget_the_dead(gained)
        return done

    def _forget_the_dead(self, partitions: Iterable[int]) -> None:
        """Strike the names of workers that are gone, and have nothing left to claim, off the groups."""
        living = {self.name.encode(), *self._ask([("ZRANGE", self._keys.workers, 0, -1)])[0]}
        folds: tuple[UserFold | ItemFold, ...] = (self._users, self._items)
        streams = [fold.stream(number) for fold in folds for number in sorted(partitions)]
        for stream, consumers in zip(
            streams, self._ask([("XINFO", "CONSUMERS", stream, GROUP) for stream in streams]), strict=True
        ):
            for consumer in consumers:
                told = dict(zip(consumer[::2], consumer[1::2], strict=True))
                if told[b"name"] not in living and not told[b"pending"]:
                    self._ask([("XGROUP", "DELCONSUMER", stream, GROUP, told[b"name"])])

    def _claim(self, partitions: Iterable[int], *, idle: float) -> int:
        """Finish entries that were handed out and not acknowledged."""
        self._claimed = time.monotonic()
        done = 0
        folds: tuple[UserFold | ItemFold, ...] = (self._users, self._items)
        for fold in folds:
            for number in sorted(partitions):
                entries = self._pending(fold.stream(number), number, idle)
                together = [entry for entry in entries if entry.deliveries <= _ALONE_AFTER]
                done += self._work(fold, together)
                for entry in entries:
                    if _ALONE_AFTER < entry.deliveries <= _DEAD_AFTER:
                        done += self._work(fold, [entry])
                    elif entry.deliveries > _DEAD_AFTER:
                        done += self._give_up(entry)
        return done

    def _pending(self, stream: str, partition: int, idle: float) -> list[Entry]:
        milliseconds = int(idle * 1000)
        (waiting,) = self._ask([("XPENDING", stream, GROUP, "IDLE", milliseconds, "-", "+", 10 * _BATCH)])
        if not waiting:
            return []
        deliveries = {_entry_id(line): int(_deliveries(line)) + 1 for line in waiting}
        (claimed,) = self._ask([("XCLAIM", stream, GROUP, self.name, milliseconds, *deliveries)])
        return [
            Entry(stream, partition, entry_id, _fields(fields), deliveries[entry_id])
            for entry_id, fields in claimed
            if fields is not None
        ]

    def _give_up(self, entry: Entry) -> int:
        transaction = Transaction(self._keys)
        message = f"{entry.deliveries - 1} workers failed on it"
        transaction.bury(entry, "failed", message, entry.fields, int(self._clock() * 1_000_000))
        return int(self._commit(transaction, {entry.partition}))

    def _nothing_left(self) -> bool:
        folds: tuple[UserFold | ItemFold, ...] = (self._users, self._items)
        streams = [fold.stream(number) for fold in folds for number in sorted(self._leases.owned)]
        for answer in self._ask([("XINFO", "GROUPS", stream) for stream in streams]):
            for group in answer:
                told = dict(zip(group[::2], group[1::2], strict=True))
                if told[b"name"] == GROUP.encode() and (told[b"pending"] or told[b"lag"] != 0):
                    return False
        return True

    def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Perform commands in one round trip. An error that Redis answers is raised, after all answers are read."""
        if not commands:
            return []
        connection = self._connection
        connection.send_packed_command(connection.pack_commands(commands))
        answers: list[Any] = []
        failed: Exception | None = None
        import redis

        for _ in commands:
            try:
                answers.append(connection.read_response())
            except redis.ResponseError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return answers

    def _connect(self) -> None:
        self._client = self._address.connect(self._timeout)
        self._connection = self._client.connection_pool.get_connection()

    def _forget_everything(self) -> None:
        """What is at hand may differ from what Redis has."""
        self._users.forget()
        self._items.forget()

    def _start_again(self, error: RecsysError) -> None:
        _log.warning("%s waits: %s", self.name, error)
        self._disconnect()
        self._leases.lose()
        self._stopping.wait(_AWAY_SECONDS)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._client.close()
            self._connection = None

    def _leave(self) -> None:
        try:
            with named_errors(self._address, self._timeout):
                if self._connection is None:
                    self._connect()
                self._leases.leave()
        except ServiceUnavailable as error:
            _log.warning("%s could not give its partitions back; they are free in a moment: %s", self.name, error)


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    parts = iter(flat)
    return dict(zip(parts, parts, strict=True))


def _family(key: Any) -> str:
    """What a key is of, without whose it is."""
    text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
    return ":".join(text.split(":")[:3]) if text.startswith("recsys:") else "the features of a user or an item"


def _entry_id(line: Any) -> bytes:
    entry_id: bytes = line[0]
    return entry_id


def _deliveries(line: Any) -> int:
    deliveries: int = line[3]
    return deliveries
