"""Forgetting people: everywhere, so that it may be interrupted and done again, and proved by a search at the end.

1. A tombstone in the home and in Redis: from now on workers, archives and tables let nothing of them in.
2. Redis: features, live state, consent; entries of streams; then Redis's own files are written anew.
3. The home: canonical tables (with a new digest, so that every step after them is stale), archives, joined outcomes,
   feature tables, training contexts, spooled events, reports, logs, the log of requests.
4. A search of all that for the ids, and for the pseudonyms by which logs and reports call people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys_plugin.data.store import MANIFEST, Dataset, load_dataset, locked, write_dataset
from recsys_plugin.errors import RecsysError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress, named_errors
from recsys_plugin.impressions.archive import alone_in_archive
from recsys_plugin.pipeline.workspace import Workspace
from recsys_plugin.privacy.files import FileTraces, forget_in_files, search_files
from recsys_plugin.privacy.person import Person, people_of
from recsys_plugin.privacy.rows import belongs
from recsys_plugin.privacy.servers import all_servers
from recsys_plugin.privacy.store import Progress, StoreTraces, forget_in_store, persist_anew, search_store
from recsys_plugin.privacy.tombstones import Tombstones, bury_in_store, raise_in_store, required_names
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings

__all__ = ["Forgotten", "StoredEvents", "admit", "forget", "search"]

_TIMEOUT = 600.0
#: Streams are looked through again this often, should writers that were under way have added something.
_ROUNDS = 3
#: Seconds that a lock is waited for: an archive that runs every minute holds its own for moments.
_LOCK_SECONDS = 10.0
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class StoredEvents:
    """The events of a data set, as :func:`~recsys_plugin.data.store.write_dataset` takes them."""

    dataset: Dataset

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.dataset.counts["events"]

    @property
    def first(self) -> datetime:
        """When the first was."""
        return self.dataset.first_event

    @property
    def last(self) -> datetime:
        """When the last was."""
        return self.dataset.last_event

    @property
    def types(self) -> dict[str, int]:
        """How many there are of each type."""
        return dict(self.dataset.event_types)

    @property
    def pieces(self) -> Callable[[], Iterator[pa.Table]]:
        """Gives them piece by piece."""
        return lambda: self.dataset.batches("events")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was taken out, and what a search found afterwards.

    Attributes:
        people: how many. removed: place → how much was taken out there.
        redis_files: a sentence about Redis's own files.
        store, files: what was searched and found. searched_bytes: whether every id is one that cannot occur by chance,
            so that all bytes were searched for it too.

    Pseudonyms that are to stay (:attr:`kept`) are those of the tombstones, of who opted out, and, until the next
    export, of models.
    """

    people: int
    removed: dict[str, int]
    redis_files: str
    store: StoreTraces
    files: FileTraces
    searched_bytes: bool

    @property
    def found(self) -> tuple[str, ...]:
        """Where something is left."""
        return (*self.store.found, *self.files.found)

    @property
    def kept(self) -> tuple[str, ...]:
        """Where a pseudonym is that is to stay, and why."""
        return (*self.store.kept, *self.files.kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "found": list(self.found), "kept": list(self.kept)}


def forget(
    settings: Settings,
    redis_url: str,
    user_ids: Sequence[str],
    *,
    project: str = "recsys",
    progress: Progress = lambda what, done, total: None,
) -> Forgotten:
    """Forget people, and search for what is left; doing it again does no harm, and finishes what was interrupted.

    Raises:
        ConfigurationError: without the key by which they are remembered as forgotten, or with another than before.
        InvalidInput: if one is no id. StoreUnavailable, DeadlineExceeded: for Redis.
        StepFailed, ConfigurationError: if the pipeline or an archive is at work in the home; Redis is done by then.
    """
    names = required_names(settings)
    people = people_of(user_ids, project, names)
    address, keys = RedisAddress.parse(redis_url), EventKeys(project)
    removed: dict[str, int] = {}

    def count(found: dict[str, int]) -> None:
        for place, number in found.items():
            if number:
                removed[place] = removed.get(place, 0) + number

    with ExitStack() as stack:
        servers = stack.enter_context(all_servers(address, _TIMEOUT))
        Tombstones.read(settings).changed(settings, added=[person.user_id for person in people])
        bury_in_store(servers.client, keys, names, [person.user_id for person in people])

        def clear_store() -> None:
            found = forget_in_store(servers, people, names, progress)
            count({f"Redis: {place.replace('_', ' ')}": number for place, number in found.items()})

        clear_store()
        with _patiently(lambda: Workspace(settings.state).lock()), _patiently(lambda: alone_in_archive(settings.state)):
            count(_forget_in_tables(settings, people, progress))
            count(forget_in_files(settings, people, names.of, progress))
        for _ in range(_ROUNDS):
            redis_files = persist_anew(servers, progress)
            store = search_store(servers, people, progress)
            if not store.found:
                break
            clear_store()
        files = search_files(settings, people, progress)
    return Forgotten(len(people), removed, redis_files, store, files, all(person.distinctive for person in people))


def search(
    settings: Settings,
    redis_url: str,
    user_ids: Sequence[str],
    *,
    project: str = "recsys",
    progress: Progress = lambda what, done, total: None,
) -> tuple[StoreTraces, FileTraces]:
    """Look for people by id, and by pseudonym if the settings have the key; change nothing.

    Raises:
        InvalidInput: if one is no id. StoreUnavailable, DeadlineExceeded: for Redis. StepFailed: if slots of a cluster
            moved meanwhile.
    """
    names = None if settings.pseudonym_key is None else Pseudonyms(settings.pseudonym_key)
    people = people_of(user_ids, project, names)
    with all_servers(RedisAddress.parse(redis_url), _TIMEOUT) as servers:
        return search_store(servers, people, progress), search_files(settings, people, progress)


def admit(settings: Settings, redis_url: str, user_ids: Sequence[str], *, project: str = "recsys") -> int:
    """Let people in again who were forgotten and came back; how many of them had been.

    What was deleted stays so; from now on what they do is kept.
    """
    names = required_names(settings)
    people = people_of(user_ids, project, names)
    address = RedisAddress.parse(redis_url)
    with named_errors(address, _TIMEOUT):
        client: Any = address.connect(_TIMEOUT)
        try:
            Tombstones.read(settings).changed(settings, removed=[person.user_id for person in people])
            return raise_in_store(client, EventKeys(project), names, [person.user_id for person in people])
        finally:
            client.close()


def _forget_in_tables(settings: Settings, people: Sequence[Person], progress: Progress) -> dict[str, int]:
    """Write the canonical tables anew, which leaves out whoever has a tombstone; how many rows, by table."""
    if not (settings.tables / MANIFEST).is_file():
        return {}
    ids = {person.user_id for person in people}
    with locked(settings):
        dataset = load_dataset(settings)
        held: dict[str, int] = {}
        for name in dataset.counts:
            total, done = dataset.counts[name], 0
            for piece in dataset.batches(name):
                mine = belongs(piece, lambda values: ids.intersection(value for value in values if value is not None))
                count = 0 if mine is None else int(pc.sum(mine).as_py() or 0)
                held[name] = held.get(name, 0) + count
                done += piece.num_rows
                progress(f"table {name}", done, total)
        if any(held.values()):
            progress("writing tables", 0, 0)
            others = {name: dataset.table(name) for name in dataset.counts if name != "events"}
            write_dataset(settings, others, StoredEvents(dataset), dataset.description)
    return {f"table {name}": number for name, number in held.items()}


@contextmanager
def _patiently(lock: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Hold a lock that somebody else may hold for a moment."""
    deadline = time.monotonic() + _LOCK_SECONDS
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock())
                break
            except RecsysError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
        yield
