"""Which Redis and which Triton: ours or those given by URL; bringing them up, checked, and down."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from recsys_plugin.errors import (
    ConfigurationError,
    InferenceUnavailable,
    RecsysError,
    ServiceUnavailable,
    StoreUnavailable,
)
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.runtime.accelerators import models_asking_for_gpu, models_without_gpu
from recsys_plugin.runtime.known_answers import check_known_answers, load_known_answers
from recsys_plugin.runtime.processes import (
    ServerProcess,
    file_lock,
    marked_processes,
    signals_deferred,
    termination_as_interrupt,
)
from recsys_plugin.runtime.redis_server import EmbeddedRedis
from recsys_plugin.runtime.triton_client import TritonManager
from recsys_plugin.runtime.triton_server import EmbeddedTriton
from recsys_plugin.settings import Settings
from recsys_plugin.urls import shown_url

__all__ = ["Endpoints", "ServiceStatus", "Services", "known_answers_path", "ping_redis", "public_url"]

Note = Callable[[str], None]

#: After so many seconds a server counts as not answering.
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers answer."""

    redis_url: str
    triton_url: str
    known_answers: int
    """How many known answers came back right."""
    version: int
    """The exported model version that was checked."""
    started: tuple[str, ...]
    """Servers that this call started; empty when all ran already."""
    without_gpu: tuple[str, ...] = ()
    """Models that ask for a GPU and run on the CPU, since none was obtained."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One server's state, for people and for ``--json``."""

    name: str
    state: str
    """``running``, ``stopped``, ``not answering``; an external server is never ``stopped``."""
    embedded: bool
    url: str
    """Without its password."""
    pid: int | None = None
    uptime_seconds: float | None = None
    detail: str = ""
    log: str | None = None


def known_answers_path(settings: Settings) -> Path:
    """Where the export records what the models must answer."""
    return settings.state / "export" / "known_answers.json"


def public_url(url: str) -> str:
    """The URL without its user name and password, and without whatever else could be one."""
    return shown_url(url).replace("***@", "")


def ping_redis(url: str, *, timeout: float = 5.0) -> None:
    """Check that a Redis answers.

    Raises:
        ConfigurationError: if the URL is malformed.
        StoreUnavailable: if it does not answer.
    """
    import redis

    address = RedisAddress.parse(url)
    try:
        client = address.connect(timeout)
        try:
            client.ping()
        finally:
            client.close()
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis at {public_url(url)} does not answer: {error}") from error


class Services:
    """The two servers of one home folder.

    A URL in the settings means somebody else's server: it is checked, never started or stopped. The embedded
    server's own URL, which ``recsys env`` puts into a shell, still means the embedded server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = EmbeddedRedis(settings.state)
        self.triton = EmbeddedTriton(
            settings.state,
            settings.model_repository,
            settings.triton_python,
            model_key=settings.model_key,
            traces_endpoint=settings.traces_endpoint,
        )

    @property
    def redis_is_embedded(self) -> bool:
        """Whether Redis is ours to start and stop."""
        return self.settings.redis_url in (None, self.redis.url)

    @property
    def triton_is_embedded(self) -> bool:
        """Whether Triton is ours to start and stop."""
        return self.settings.triton_url in (None, self.triton.url)

    @property
    def redis_url(self) -> str:
        """The Redis in use, whether it runs or not."""
        return self.settings.redis_url or self.redis.url

    @property
    def triton_url(self) -> str:
        """The Triton in use, whether it runs or not."""
        return self.settings.triton_url or self.triton.url

    def up(self, note: Note = lambda text: None) -> Endpoints:
        """Start what is not running, load newly exported versions, return once the known answers are right.

        Interrupted or failing, it stops what it started and leaves alone what ran before.

        Args:
            note: told in a sentence what goes on.

        Raises:
            ConfigurationError: nothing to serve yet, or an unusable environment.
            StoreUnavailable, InferenceUnavailable: a server does not start or answer.
            CheckFailed: a model answers wrongly.
        """
        known = load_known_answers(known_answers_path(self.settings))
        started: list[str] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(termination_as_interrupt())
            # One order for every command, so that two of them cannot wait for each other.
            for server in (self.redis.process, self.triton.process):
                stack.enter_context(server.lock())
            undo = stack.enter_context(contextlib.ExitStack())
            if self.redis_is_embedded:
                if not self.redis.process.running:
                    note("starting Redis")
                    started.append("redis")
                    undo.callback(self.redis.stop)
                self.redis.start(note=note)
            else:
                ping_redis(self.redis_url)
            if self.triton_is_embedded:
                if not self.triton.process.running:
                    note("starting Triton")
                    started.append("triton")
                    undo.callback(self.triton.stop)
                self.triton.start(note=note)
            self._require_triton()
            note(f"checking {len(known.answers)} known answers")
            check_known_answers(self.triton_url, known)
            without_gpu = self.models_without_gpu()
            undo.pop_all()
        return Endpoints(
            redis_url=self.redis_url,
            triton_url=self.triton_url,
            known_answers=len(known.answers),
            version=known.version,
            started=tuple(started),
            without_gpu=tuple(without_gpu),
        )

    def models_without_gpu(self) -> list[str]:
        """Models that ask for a GPU and are served on the CPU by the Triton in use.

        Raises:
            InferenceUnavailable: if it does not answer.
        """
        asking = models_asking_for_gpu(self.settings.model_repository)
        if not asking:
            return []
        log = self.triton.process.log_since_start() if self.triton_is_embedded else ""
        with TritonManager(self.triton_url) as triton:
            return models_without_gpu(triton, asking, log=log)

    def _require_triton(self) -> None:
        with TritonManager(self.triton_url) as triton:
            if not triton.is_live():
                raise InferenceUnavailable(
                    f"Triton at {self.triton_url} does not answer; start it, or unset RECSYS_TRITON_URL "
                    "to use the embedded server"
                )

    def down(self) -> list[str]:
        """Stop the embedded servers, helpers left by killed ones included; the names of those that ran.

        Raises:
            StepFailed: if a process cannot be stopped.
        """
        stopped = []
        with self.redis.process.lock(), self.triton.process.lock():
            # Triton first: nothing asks Redis any more while it saves.
            for name, server in (("triton", self.triton), ("redis", self.redis)):
                if server.stop():
                    stopped.append(name)
        return stopped

    @contextlib.contextmanager
    def ensure_redis(self, note: Note = lambda text: None) -> Iterator[str]:
        """The URL of an answering Redis for the length of the block.

        A running server, ours or external, is used. Otherwise the embedded one is started, and stopped again
        by its last user, unless ``recsys up`` has adopted it meanwhile.

        Raises:
            StoreUnavailable: if it does not start or answer.
        """
        if not self.redis_is_embedded:
            ping_redis(self.redis_url)
            yield self.redis_url
            return
        users = self.redis.process.state / "run" / "redis-users.lock"
        with termination_as_interrupt():
            try:
                with file_lock(users, shared=True):
                    with self.redis.process.lock():
                        if not self.redis.process.running:
                            note("starting Redis for this step")
                        self.redis.start(temporary=True, note=note)
                    yield self.redis.url
            finally:
                with signals_deferred():
                    self._stop_if_unused(users)

    def _stop_if_unused(self, users: Path) -> None:
        with self.redis.process.lock():
            record = self.redis.process.record
            if record is None or not record.temporary:
                return
            try:
                with file_lock(users, timeout=0.0):
                    self.redis.stop()
            except ServiceUnavailable:
                return  # another step uses it; the last one stops it

    def status(self) -> list[ServiceStatus]:
        """Both servers as they are now; starts and changes nothing."""
        return [self._redis_status(), self._triton_status()]

    def _redis_status(self) -> ServiceStatus:
        status = self._process_status("redis", self.redis_url, self.redis_is_embedded, self.redis.process)
        if status.state == "stopped":
            return status
        import redis

        try:
            client = RedisAddress.parse(self.redis_url).connect(_ANSWER_SECONDS)
            try:
                keys, memory = client.dbsize(), client.info("memory")
            finally:
                client.close()
        except (redis.RedisError, ConfigurationError) as error:
            return replace(status, state="not answering", detail=str(error))
        used = memory.get("used_memory_human") if isinstance(memory, dict) else None
        return replace(status, detail=f"{keys:,} keys" + (f", {used} in memory" if used else ""))

    def _triton_status(self) -> ServiceStatus:
        status = self._process_status("triton", self.triton_url, self.triton_is_embedded, self.triton.process)
        if status.state == "stopped":
            return status
        try:
            with TritonManager(self.triton_url, timeout=_ANSWER_SECONDS) as triton:
                index = triton.index()
        except RecsysError as error:
            return replace(status, state="not answering", detail=str(error))
        ready = sorted({f"{m.name}:{m.version}" for m in index if m.ready})
        failed = sorted({m.name for m in index if not m.ready} - {m.name for m in index if m.ready})
        detail = f"{len(ready)} model versions ready: {', '.join(ready)}"
        return replace(status, detail=detail + (f"; not ready: {', '.join(failed)}" if failed else ""))

    def _process_status(
        self, name: str, url: str, embedded: bool, process: ServerProcess, now: float | None = None
    ) -> ServiceStatus:
        if not embedded:
            return ServiceStatus(name, "running", embedded=False, url=public_url(url))
        record = process.record
        if record is None:
            left = marked_processes(process.mark)
            detail = f"processes left behind: {left}; `recsys down` ends them" if left else ""
            return ServiceStatus(name, "stopped", embedded=True, url=url, detail=detail, log=str(process.log))
        uptime = (time.time() if now is None else now) - record.started_at
        return ServiceStatus(
            name,
            "running",
            embedded=True,
            url=url,
            pid=record.pid,
            uptime_seconds=round(uptime, 1),
            log=str(process.log),
        )
