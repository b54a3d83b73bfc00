"""The file from which a client can be opened while no server can be reached: when it is written, when it is read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

from recsys_plugin.background import Warner
from recsys_plugin.client.following import follow_rules
from recsys_plugin.client.limited import limited
from recsys_plugin.client.offload import Offload
from recsys_plugin.client.release import Release, load_release
from recsys_plugin.client.snapshot import MalformedSnapshot, Snapshot, check_snapshot, read_snapshot, write_snapshot
from recsys_plugin.errors import ConfigurationError, RecsysError, ServiceUnavailable
from recsys_plugin.policy.rules import NO_RULES, PageRules

__all__ = ["OPENING_TIMEOUT", "READY_EVERY", "Snapshots"]

_log = logging.getLogger("recsys_plugin")

#: Seconds that servers may take to load a client that could be opened from a file instead.
OPENING_TIMEOUT = 3.0
#: Seconds between two attempts of such a client to reach its servers.
READY_EVERY = 0.5
#: Seconds after which changed prices and stocks are written anew; another version or other rules are at once.
_CHANGES_EVERY = 60.0


class Snapshots:
    """A client's snapshot file.

    Args:
        path: ``None`` for none. project: the Feast project. loading: seconds that loading may take without a file.
        timer: seconds that only run forward.
    """

    def __init__(
        self,
        path: Path | None,
        project: str,
        loading: float,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._project, self._timer = path, project, timer
        self._kept: tuple[Release, PageRules, float] | None = None
        self._refused: MalformedSnapshot | None = None
        self._warner = Warner("could not write the snapshot")
        there = False
        if path is not None:
            try:
                there = check_snapshot(path)
            except MalformedSnapshot as error:
                self._refused = error
                _log.warning("%s", error)
        self._loading = min(loading, OPENING_TIMEOUT) if there else loading

    @property
    def age(self) -> float | None:
        """Seconds since the file was written; ``None`` if there is none."""
        try:
            return None if self._path is None else max(0.0, time.time() - self._path.stat().st_mtime)
        except OSError:
            return None

    def opened(self) -> Generator[Any, Any, tuple[Release, PageRules]]:
        """The release that serves and the shop's rules; from the file, if the servers fail or take too long.

        Raises:
            FeatureContractError: as :func:`load_release`.
            MalformedSnapshot: if the servers fail, and the file is none.
            ServiceUnavailable: if the servers fail, and there is no file.
        """
        deadline = self._timer() + self._loading
        try:
            return (
                yield from limited(self._loaded(), deadline, self._timer, "the servers did not load the client in time")
            )
        except ServiceUnavailable as error:
            snapshot = yield Offload(partial(self._instead, error))
            return snapshot.release, snapshot.rules

    def kept(self, release: Release, rules: PageRules) -> Generator[Offload, Any, None]:
        """Write the file if it is due; that it cannot be written is logged."""
        if self._is_due(release, rules):
            yield Offload(lambda: self._keep(release, rules))

    def _loaded(self) -> Generator[Any, Any, tuple[Release, PageRules]]:
        release = yield from load_release(self._project, None)
        return release, (yield from follow_rules(self._project, NO_RULES))

    def _instead(self, error: RecsysError) -> Snapshot:
        """What the client is opened from, as the servers failed."""
        if self._refused is not None:
            raise self._refused from error
        if self._path is None or not self._path.exists():
            raise error
        snapshot = read_snapshot(self._path, self._project)
        _log.warning("opened from the snapshot %s of version %d: %s", self._path, snapshot.release.version, error)
        return snapshot

    def _is_due(self, release: Release, rules: PageRules) -> bool:
        """Whether the file is to be written."""
        if self._path is None or release.is_snapshot:
            return False
        if self._kept is None:
            return True
        kept, followed, moment = self._kept
        if (kept.version, followed.digest) != (release.version, rules.digest):
            return True
        return kept is not release and self._timer() - moment >= _CHANGES_EVERY

    def _keep(self, release: Release, rules: PageRules) -> None:
        assert self._path is not None
        try:
            write_snapshot(self._path, self._project, release, rules)
            self._warner.worked()
        except OSError as error:
            self._warner.failed(ConfigurationError(f"{self._path}: {error}"))
        self._kept = release, rules, self._timer()
