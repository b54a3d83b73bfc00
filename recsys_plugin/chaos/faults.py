"""What can go wrong, as values: each is begun on a target and ended again.

Once :meth:`Fault.end` has returned, the servers are as before and answer; that moment counts as their recovery.
"""

from __future__ import annotations

import json
import resource
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from recsys_plugin.chaos.proxy import Direction, Link
from recsys_plugin.chaos.target import SERVERS, TRITON, Target
from recsys_plugin.errors import CheckFailed, InferenceUnavailable, InvalidInput
from recsys_plugin.features.requests import schema_key
from recsys_plugin.runtime.triton_client import TritonManager

__all__ = [
    "Bandwidth",
    "ClockStep",
    "CorruptModel",
    "Fault",
    "FullDisk",
    "HalfOpen",
    "Kill",
    "Latency",
    "MaxMemory",
    "RegistryChange",
    "Reset",
    "Restart",
    "Stop",
    "Truncate",
    "UnloadModel",
]


class Fault(ABC):
    """Something that goes wrong, until it is mended."""

    @property
    def name(self) -> str:
        """A few words for people, the servers among them."""
        return self._words()

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that cannot serve as they should meanwhile; none if requests are not to notice."""
        return self._hurt()

    def begin(self, target: Target) -> None:
        """Break it."""
        self._begin(target)

    def end(self, target: Target) -> None:
        """Mend it, and wait until it answers again."""
        self._end(target)

    @abstractmethod
    def _words(self) -> str: ...

    def _hurt(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def _begin(self, target: Target) -> None: ...

    @abstractmethod
    def _end(self, target: Target) -> None: ...


@dataclass(frozen=True, slots=True)
class _OnServers(Fault):
    on: tuple[str, ...] = SERVERS

    def __post_init__(self) -> None:
        if not self.on or set(self.on) - set(SERVERS):
            raise InvalidInput(f"servers: {self.on!r} are not some of {', '.join(SERVERS)}")

    def _hurt(self) -> tuple[str, ...]:
        return self.on

    def _named(self, what: str) -> str:
        return f"{what} {' and '.join(self.on)}"


@dataclass(frozen=True, slots=True)
class Kill(_OnServers):
    """SIGKILL to servers and their helpers; later they are started again, on the data and models that they had."""

    def _words(self) -> str:
        return self._named("kill")

    def _begin(self, target: Target) -> None:
        for server in self.on:
            target.kill(server)

    def _end(self, target: Target) -> None:
        for server in self.on:
            target.start(server)


@dataclass(frozen=True, slots=True)
class Restart(_OnServers):
    """SIGTERM, on which servers end in order; later they are started again."""

    def _words(self) -> str:
        return self._named("restart")

    def _begin(self, target: Target) -> None:
        for server in self.on:
            target.stop(server)

    def _end(self, target: Target) -> None:
        for server in self.on:
            target.start(server)


@dataclass(frozen=True, slots=True)
class Stop(_OnServers):
    """SIGSTOP: connections live on, are even accepted by the kernel, and nobody answers; later SIGCONT."""

    def _words(self) -> str:
        return self._named("stop")

    def _begin(self, target: Target) -> None:
        for server in self.on:
            target.freeze(server)

    def _end(self, target: Target) -> None:
        for server in self.on:
            target.thaw(server)


@dataclass(frozen=True, slots=True)
class _OnLinks(_OnServers):
    def _begin(self, target: Target) -> None:
        for server in self.on:
            target.link(server, self._link())

    def _end(self, target: Target) -> None:
        for server in self.on:
            target.link(server, Link())

    @abstractmethod
    def _link(self) -> Link: ...


@dataclass(frozen=True, slots=True)
class Latency(_OnLinks):
    """Answers are late by so many seconds."""

    seconds: float = 0.5

    def _words(self) -> str:
        return self._named(f"{self.seconds * 1000:g} ms latency of")

    def _link(self) -> Link:
        return Link(to_client=Direction(latency=self.seconds))


@dataclass(frozen=True, slots=True)
class HalfOpen(_OnLinks):
    """Nothing arrives in either direction, and nobody is told: a router dropped the connection, or a cable is out."""

    def _words(self) -> str:
        return self._named("half-open connections to")

    def _link(self) -> Link:
        held = Direction(held=True)
        return Link(held, held)


@dataclass(frozen=True, slots=True)
class Reset(_OnLinks):
    """Connections are reset, and new ones refused."""

    def _words(self) -> str:
        return self._named("reset connections to")

    def _link(self) -> Link:
        return Link(refused=True)


@dataclass(frozen=True, slots=True)
class Truncate(_OnLinks):
    """Connections end in the midst of an answer, after so many bytes of answers."""

    after: int = 100

    def _words(self) -> str:
        return self._named(f"answers cut after {self.after} bytes from")

    def _link(self) -> Link:
        return Link(to_client=Direction(cut_after=self.after))


@dataclass(frozen=True, slots=True)
class Bandwidth(_OnLinks):
    """Answers come at so many bytes per second."""

    bytes_per_second: float = 2000.0

    def _words(self) -> str:
        return self._named(f"{self.bytes_per_second:g} bytes/s from")

    def _link(self) -> Link:
        return Link(to_client=Direction(bytes_per_second=self.bytes_per_second))


@dataclass(frozen=True, slots=True)
class MaxMemory(Fault):
    """Redis has no memory left and must not evict: it refuses writes and answers reads."""

    def _words(self) -> str:
        return "redis out of memory"

    def _begin(self, target: Target) -> None:
        with target.store() as redis:
            redis.config_set("maxmemory", 1)

    def _end(self, target: Target) -> None:
        with target.store() as redis:
            redis.config_set("maxmemory", 0)


@dataclass(frozen=True, slots=True)
class FullDisk(Fault):
    """The append-only file of Redis cannot grow: Redis refuses writes and answers reads.

    The limit is that of the process (``RLIMIT_FSIZE``), so no disk is filled. Needs a server that was started for it,
    :class:`~recsys_plugin.chaos.target.FragileRedis`.
    """

    def _words(self) -> str:
        return "redis with a full disk"

    def _begin(self, target: Target) -> None:
        self._limit(target, 0)

    def _end(self, target: Target) -> None:
        self._limit(target, resource.RLIM_INFINITY)

    def _limit(self, target: Target, size: int) -> None:
        record = target.redis.process.record
        if record is None:
            raise CheckFailed("redis does not run: its disk cannot be filled")
        resource.prlimit(record.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@dataclass(frozen=True, slots=True)
class UnloadModel(Fault):
    """Triton lets go of a model, as an operator's mistake would have it; later it is loaded again."""

    model: str = "recommend"

    def _words(self) -> str:
        return f"model {self.model} unloaded"

    def _hurt(self) -> tuple[str, ...]:
        return (TRITON,)

    def _begin(self, target: Target) -> None:
        with TritonManager(target.triton.url) as triton:
            triton.unload(self.model)

    def _end(self, target: Target) -> None:
        with TritonManager(target.triton.url) as triton:
            triton.load(self.model)


@dataclass(frozen=True, slots=True)
class CorruptModel(Fault):
    """A model's newest file is garbage and is to be loaded: Triton refuses, and what it has goes on serving.

    Raises, from ``begin``, ``CheckFailed`` if Triton loads it.
    """

    model: str = "recommend"
    _kept: dict[Path, Path] = field(default_factory=dict, init=False, compare=False, repr=False)

    def _words(self) -> str:
        return f"corrupt file of model {self.model}"

    def _begin(self, target: Target) -> None:
        path = _newest_file(target.triton.model_repository / self.model)
        # Aside and within the same file system, out of the model's folder; the file may be a link into another home.
        kept = target.triton.model_repository.parent / f".{self.model}.kept"
        path.rename(kept)
        self._kept[path] = kept
        path.write_bytes(b"no model" * 64)
        with TritonManager(target.triton.url) as triton, suppress(InferenceUnavailable):
            triton.load(self.model)
            raise CheckFailed(f"Triton loaded {path}, which is no model")

    def _end(self, target: Target) -> None:
        for path, kept in self._kept.items():
            kept.replace(path)
        self._kept.clear()
        with TritonManager(target.triton.url) as triton:
            triton.load(self.model)


@dataclass(frozen=True, slots=True)
class RegistryChange(Fault):
    """Somebody applied other feature definitions: the recorded type of a feature is another one, and others are gone.

    Clients that serve go on with the contract that they have; one that starts refuses.
    """

    project: str = "recsys"
    _kept: dict[str, bytes] = field(default_factory=dict, init=False, compare=False, repr=False)

    def _words(self) -> str:
        return "changed registry"

    def _begin(self, target: Target) -> None:
        key = schema_key(self.project)
        with target.store() as redis:
            text = redis.get(key)
            if text is None:
                raise CheckFailed(f"Redis has no {key}: `recsys apply` has not run")
            self._kept[key] = text
            schema = json.loads(text)
            changed = {name: "STRING" if kind != "STRING" else "INT64" for name, kind in schema.items()}
            redis.set(key, json.dumps(changed))

    def _end(self, target: Target) -> None:
        with target.store() as redis:
            for key, text in self._kept.items():
                redis.set(key, text)
        self._kept.clear()


@dataclass(frozen=True, slots=True)
class ClockStep(Fault):
    """The clock of those who ask jumps by so many seconds, and back; deadlines must not care."""

    seconds: float = 3600.0

    def _words(self) -> str:
        return f"clock step of {self.seconds:+g} s"

    def _begin(self, target: Target) -> None:
        target.clock_offset.value = self.seconds

    def _end(self, target: Target) -> None:
        target.clock_offset.value = 0.0


def _newest_file(folder: Path) -> Path:
    """The file of a model's highest version."""
    versions = [path for path in folder.iterdir() if path.name.isdigit()]
    return max(versions, key=lambda path: int(path.name)) / "model.onnx"
