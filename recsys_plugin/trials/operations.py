"""Starting, changing and ending trials, for people and for programs that work like them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from recsys_plugin.errors import ConfigurationError, InvalidInput, ServiceUnavailable
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.command_runner import CommandRunner
from recsys_plugin.features.requests import promotion_key
from recsys_plugin.trials.store import change_trial, look_after, read_all_counts, read_trial
from recsys_plugin.trials.tally import ArmCounts
from recsys_plugin.trials.trial import CANARY, DEFAULT_THRESHOLDS, Phase, Thresholds, Trial

__all__ = ["Trials", "refuse_during_trial"]

_TIMEOUT = 5.0
#: Somebody else may change the trial just then; more often than this it is no coincidence.
_ATTEMPTS = 10


def refuse_during_trial(redis_url: str, project: str = "recsys") -> None:
    """Make sure that no trial runs whose candidate an export would delete: two versions stay, the new one and another.

    Raises:
        ConfigurationError: if one does. Where Redis does not answer, no client can take part in a trial.
    """
    with suppress(ServiceUnavailable), Trials(redis_url, project) as trials:
        trial = trials.read()
        if trial is not None and trial.running:
            raise ConfigurationError(
                f"a trial of version {trial.candidate} against version {trial.control} is running, and an export would "
                "delete one of them; end it with `recsys trial stop` or `recsys trial promote` first"
            )


class Trials(CommandRunner):
    """The trials of a project.

    Args:
        redis_url: see :mod:`recsys_plugin.features.connection`. project: the Feast project.
        clock: unix seconds.

    Raises, from every method: ``StoreUnavailable`` and ``DeadlineExceeded`` for Redis, ``MalformedTrial`` if what is
    there is no trial.
    """

    def __init__(self, redis_url: str, project: str = "recsys", *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(redis_url, timeout=_TIMEOUT)
        self._project, self._keys, self._clock = project, EventKeys(project), clock

    def read(self) -> Trial | None:
        """The latest trial, running or ended; ``None`` if there never was one."""
        return self.run(read_trial(self._project))[0]

    def start(
        self,
        *,
        control: int,
        candidate: int,
        share: float,
        salt: str,
        mode: str = CANARY,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
    ) -> Trial:
        """Begin a trial; clients take it up within a second.

        Args:
            share: of the users in a canary, of the requests in a shadow trial.
            salt: any text; with the one of an earlier trial, the same users come first.

        Raises:
            InvalidInput: if a value makes no sense.
            ConfigurationError: if one runs already, or ``control`` is not the promoted version.
        """
        now = self._clock()
        # To the millisecond: counts are kept by this name, and two trials must not share them.
        moment = datetime.fromtimestamp(now, UTC)
        trial_id = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}-v{candidate}"
        trial = Trial(trial_id, control, candidate, salt, (Phase(now, share),), mode, thresholds)
        before, text = self.run(read_trial(self._project))
        if before is not None and before.running:
            raise ConfigurationError(
                f"a trial of version {before.candidate} is running; end it with `recsys trial stop` first"
            )
        (promoted,) = self.perform((("GET", promotion_key(self._project)),))
        if promoted != b"%d" % control:
            raise ConfigurationError(
                f"version {control} is not promoted, so another may come to serve during the trial; "
                f"run `recsys models promote {control}` first"
            )
        if not self.run(change_trial(self._project, text, trial)):
            raise ConfigurationError("somebody else began a trial just now; see `recsys trial status`")
        return trial

    def set_share(self, share: float) -> Trial:
        """Let another share take part from now on; those who did still do when it grows.

        Raises:
            InvalidInput: if it is not from 0 to 1. ConfigurationError: if no trial runs.
        """
        return self._change(lambda trial: trial.with_share(share, now=self._clock()))

    def end(self, status: str, reason: str) -> Trial:
        """End the trial: everybody is served by the control from the next second on.

        Raises:
            ConfigurationError: if no trial runs.
        """
        return self._change(lambda trial: trial.ended(status, reason, now=self._clock()))

    def remove(self) -> None:
        """Take the document away, whatever it is; the history and the counts stay."""
        self.perform((("DEL", self._keys.trial),))

    def look_after(self, token: str) -> Trial | None:
        """Compare the arms now, as every client does each second; the trial as it is then."""
        flow = look_after(self._project, promotion_key(self._project), now=self._clock(), token=token, always=True)
        return self.run(flow)

    def history(self) -> list[Trial]:
        """The trials that ended, oldest first."""
        (texts,) = self.perform((("LRANGE", self._keys.trial_history, 0, -1),))
        return [Trial.from_json(text) for text in texts]

    def find(self, trial_id: str | None) -> Trial:
        """A trial by its id, or the latest.

        Raises:
            InvalidInput: if there is none.
        """
        latest = self.read()
        if trial_id is None and latest is not None:
            return latest
        found = [trial for trial in (*self.history(), latest) if trial is not None and trial.trial_id == trial_id]
        if not found:
            asked = "no trial was started yet" if trial_id is None else f"there is no trial {trial_id!r}"
            raise InvalidInput(f"{asked}; see `recsys trial start --help` and `recsys trial status`")
        return found[-1]

    def counts(self, trial: Trial) -> list[dict[str, ArmCounts]]:
        """For each phase, arm → what was counted."""
        return self.run(read_all_counts(self._project, trial))

    def looks(self, trial: Trial) -> list[dict[str, Any]]:
        """What the guard saw over time, oldest first."""
        (entries,) = self.perform((("XRANGE", self._keys.trial_looks(trial.trial_id), "-", "+"),))
        return [json.loads(fields[b"look"]) for _, fields in entries]

    def _change(self, change: Callable[[Trial], Trial]) -> Trial:
        for _ in range(_ATTEMPTS):
            trial, text = self.run(read_trial(self._project))
            if trial is None or not trial.running:
                ended = "" if trial is None else f"; the last one was {trial.status}: {trial.reason}"
                raise ConfigurationError(f"no trial is running{ended}")
            changed = change(trial)
            if self.run(change_trial(self._project, text, changed)):
                return changed
        raise ConfigurationError(f"the trial was changed by somebody else {_ATTEMPTS} times in a row; try again")
