"""The trial in Redis: read by all, changed by whoever read it last, looked after by one client at a time."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.commands import Commands
from recsys_plugin.trials.guard import checks_of, new_bins, verdict
from recsys_plugin.trials.tally import ArmCounts, counts_commands, parse_counts
from recsys_plugin.trials.trial import ARMS, Trial

__all__ = ["change_trial", "look_after", "read_all_counts", "read_trial"]

#: Sets the document if it is still the one that was read; an end is kept in the history too.
_CHANGE = """
local now = redis.call('GET', KEYS[1])
if (now or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] == '1' then redis.call('RPUSH', KEYS[2], ARGV[2]) end
return 1
"""

#: Milliseconds between two looks after a trial, whoever makes them.
_LOOK_MILLISECONDS = 900
#: About so many looks are kept for the plot.
_LOOKS_KEPT = 500

_Work = Generator[Commands, list[Any], Any]


def read_trial(project: str) -> Generator[Commands, list[Any], tuple[Trial | None, bytes]]:
    """The latest trial, ended or not, and its text, which :func:`change_trial` compares.

    Raises:
        MalformedTrial: if it is none.
    """
    (text,) = yield Commands((("GET", EventKeys(project).trial),))
    return (None, b"") if text is None else (Trial.from_json(text), bytes(text))


def change_trial(project: str, read: bytes, changed: Trial) -> Generator[Commands, list[Any], bool]:
    """Write a trial, if nobody else did since ``read`` was read (empty for "none"); whether it was written."""
    keys = EventKeys(project)
    document, ends = changed.to_json().encode(), b"0" if changed.running else b"1"
    (done,) = yield Commands((("EVAL", _CHANGE, 2, keys.trial, keys.trial_history, read, document, ends),))
    return bool(done)


def read_all_counts(project: str, trial: Trial) -> Generator[Commands, list[Any], list[dict[str, ArmCounts]]]:
    """The counts of each phase: arm → counts."""
    commands = [counts_commands(project, trial, phase) for phase in range(len(trial.phases))]
    replies = yield Commands(tuple(command for phase in commands for command in phase))
    size = len(commands[0])
    return [parse_counts(replies[start : start + size]) for start in range(0, len(replies), size)]


def look_after(
    project: str, promotion_key: str, *, now: float, token: str, always: bool = False
) -> Generator[Commands, list[Any], Trial | None]:
    """Compare the arms of the running trial, and end it if the candidate is certainly worse than allowed.

    Every client calls it each second; the first one does the work, and the others are told at once. Should two do
    it nevertheless, one of them writes the end.

    Args:
        promotion_key: the key that names the version that serves: with another than the control, the trial is over.
        now: unix seconds. token: of the caller. always: look even if somebody else did within the second.

    Returns:
        The trial as it is now; ``None`` if there is none, or it is somebody else's turn to look.
    """
    keys = EventKeys(project)
    (mine,) = yield Commands((("SET", keys.trial_guard, token, "NX", "PX", _LOOK_MILLISECONDS),))
    if mine is None and not always:
        return None
    trial, text = yield from read_trial(project)
    if trial is None or not trial.running:
        return trial
    *replies, promoted = yield Commands(
        (*counts_commands(project, trial, trial.phase), ("GET", promotion_key)),
    )
    counts = parse_counts(replies)
    changed = _changed(trial, counts, promoted, now)
    yield from _note_look(keys, trial, counts, now, last=changed is not None and not changed.running)
    if changed is None:
        return trial
    if (yield from change_trial(project, text, changed)):
        return changed
    trial, _ = yield from read_trial(project)
    return trial


def _changed(trial: Trial, counts: dict[str, ArmCounts], promoted: bytes | None, now: float) -> Trial | None:
    """What the trial becomes; ``None`` if it stays as it is."""
    if promoted != b"%d" % trial.control:
        serves = "the newest version" if promoted is None else f"version {promoted.decode(errors='replace')}"
        return trial.ended("stopped", f"{serves} was made to serve in place of the control", now=now)
    if (reason := verdict(trial, counts)) is not None:
        return trial.ended("rolled back", reason, now=now)
    if trial.thresholds.psi is not None and (bins := new_bins(trial, counts)):
        return trial.with_bins(bins)
    return None


def _note_look(keys: EventKeys, trial: Trial, counts: dict[str, ArmCounts], now: float, *, last: bool) -> _Work:
    """Write down what was seen, often in the beginning and about so many times in all: the plot is made of it."""
    stream = keys.trial_looks(trial.trial_id)
    (newest,) = yield Commands((("XREVRANGE", stream, "+", "-", "COUNT", 1),))
    if newest and not last:
        seen = json.loads(newest[0][1][b"look"])["at"]
        if now - seen < (now - trial.started_at) / _LOOKS_KEPT:
            return
    look = {
        "at": now,
        "phase": trial.phase,
        "arms": {
            arm: {
                "users": counts[arm].users,
                "requests": counts[arm].requests,
                "errors": counts[arm].errors,
                "latency_p95": counts[arm].latency.quantile(0.95),
                "score_mean": {kind: moments.mean for kind, moments in counts[arm].score_moments.items()},
            }
            for arm in ARMS
        },
        "checks": [
            {"name": check.name, "estimate": check.estimate, "lower": check.lower, "threshold": check.threshold}
            for check in checks_of(trial, counts)
        ],
    }
    yield Commands((("XADD", stream, "MAXLEN", "~", 4 * _LOOKS_KEPT, "*", "look", json.dumps(look)),))
