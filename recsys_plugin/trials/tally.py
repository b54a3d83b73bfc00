"""What is counted of a trial: in this process between two flushes, and in Redis over all of them."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys_plugin.events.keys import EventKeys
from recsys_plugin.trials.sketch import Sketch, bucket_of
from recsys_plugin.trials.trial import ARMS, CANDIDATE, Trial

__all__ = ["ArmCounts", "Moments", "Tally", "counts_commands", "parse_counts"]

#: Seconds until counts of a trial that nobody writes any more are gone: a quarter of a year.
_KEPT = 90 * 86_400


@dataclass(frozen=True, slots=True)
class Moments:
    """Of numbers that were added up: how many, their sum, and the sum of their squares."""

    count: int = 0
    sum: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float | None:
        """``None`` for no numbers."""
        return self.sum / self.count if self.count else None

    @property
    def variance(self) -> float | None:
        """Unbiased; ``None`` for fewer than two numbers."""
        if self.count < 2:
            return None
        return max(0.0, (self.squares - self.sum * self.sum / self.count) / (self.count - 1))

    def plus(self, other: Moments) -> Moments:
        """Of both."""
        return Moments(self.count + other.count, self.sum + other.sum, self.squares + other.squares)


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What an arm did. A request is one user's; one without a user belongs to no arm."""

    users: int = 0
    """Estimated, within about 1 %."""
    requests: int = 0
    errors: int = 0
    """Of a candidate in canary: requests that the control had to answer; no user saw them."""
    empty: int = 0
    """Pages without an item."""
    latency: Sketch = field(default_factory=Sketch)
    """Milliseconds, of requests for a single user."""
    scores: Mapping[str, Sketch] = field(default_factory=dict)
    """Kind of page → scores of the first item."""
    score_moments: Mapping[str, Moments] = field(default_factory=dict)
    overlap: Moments = field(default_factory=Moments)
    """In shadow: share of the control's page that is on the candidate's page too."""
    rank_correlation: Moments = field(default_factory=Moments)
    """In shadow: Kendall's tau of the items on both pages."""
    dropped: int = 0
    """In shadow: requests that the candidate was too slow to take."""

    @classmethod
    def parse(cls, reply: Mapping[bytes, bytes], users: int) -> ArmCounts:
        """Read an arm's hash, as :class:`Tally` writes it; a field that is not known is left out."""
        numbers = {name.decode(): float(value) for name, value in reply.items()}
        latency: Counter[int] = Counter()
        scores: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for name, value in numbers.items():
            head, _, bucket = name.rpartition(":")
            if not bucket.removeprefix("-").isdigit():
                continue
            if head == "latency":
                latency[int(bucket)] += int(value)
            elif head.startswith("score:"):
                scores[head.removeprefix("score:")][int(bucket)] += int(value)

        def moments(name: str) -> Moments:
            count, *sums = (numbers.get(f"{name}:{part}", 0.0) for part in ("count", "sum", "squares"))
            return Moments(int(count), *sums)

        return cls(
            users,
            int(numbers.get("requests", 0)),
            int(numbers.get("errors", 0)),
            int(numbers.get("empty", 0)),
            Sketch(latency),
            {kind: Sketch(found) for kind, found in scores.items()},
            {kind: moments(f"score:{kind}") for kind in scores},
            moments("overlap"),
            moments("tau"),
            int(numbers.get("dropped", 0)),
        )

    def merge(self, others: Iterable[ArmCounts]) -> ArmCounts:
        """Of several phases; a user in two of them counts twice."""
        counts = self
        for other in others:
            kinds = {*counts.scores, *other.scores}
            counts = ArmCounts(
                counts.users + other.users,
                counts.requests + other.requests,
                counts.errors + other.errors,
                counts.empty + other.empty,
                counts.latency.merge([other.latency]),
                {k: counts.scores.get(k, Sketch()).merge([other.scores.get(k, Sketch())]) for k in kinds},
                {k: counts.score_moments.get(k, Moments()).plus(other.score_moments.get(k, Moments())) for k in kinds},
                counts.overlap.plus(other.overlap),
                counts.rank_correlation.plus(other.rank_correlation),
                counts.dropped + other.dropped,
            )
        return counts


class Tally:
    """Counts one phase of a trial in this process; safe to share between threads.

    Args:
        project: the Feast project. trial: its present phase is what is counted.
    """

    def __init__(self, project: str, trial: Trial) -> None:
        self._keys, self._trial = EventKeys(project), trial
        self._lock = threading.Lock()
        self._whole: dict[str, Counter[str]] = {}
        self._sums: dict[str, defaultdict[str, float]] = {}
        self._users: dict[str, set[str]] = {}
        self._clear()

    def record(
        self,
        arm: str,
        user_ids: Iterable[str],
        *,
        failed: bool,
        empty: int = 0,
        seconds: float | None = None,
        scores: Iterable[tuple[str, float]] = (),
    ) -> None:
        """Count one request for each user.

        Args:
            failed: whether the arm gave no answer.
            empty: on how many pages there was nothing.
            seconds: how long it took, if that is to be compared.
            scores: kind of page and score of its first item.
        """
        users = list(user_ids)
        with self._lock:
            whole = self._whole[arm]
            whole["requests"] += len(users)
            whole["errors"] += len(users) * failed
            whole["empty"] += empty
            if seconds is not None:
                whole[f"latency:{bucket_of(seconds * 1000)}"] += 1
            for kind, score in scores:
                whole[f"score:{kind}:{bucket_of(score)}"] += 1
                self._add(arm, f"score:{kind}", score)
            self._users[arm].update(users)

    def compare(self, overlap: float, correlation: float | None) -> None:
        """Count how alike a page of the control and the candidate's in its shadow are."""
        with self._lock:
            self._add(CANDIDATE, "overlap", overlap)
            if correlation is not None:
                self._add(CANDIDATE, "tau", correlation)

    def dropped(self) -> None:
        """Count a request that the candidate's shadow could not take."""
        with self._lock:
            self._whole[CANDIDATE]["dropped"] += 1

    def drain(self) -> tuple[tuple[Any, ...], ...]:
        """The commands that add what was counted since the last time to the counts in Redis."""
        with self._lock:
            whole, sums, users = self._whole, self._sums, self._users
            self._clear()
        commands: list[tuple[Any, ...]] = []
        for arm in ARMS:
            key = self._keys.trial_counts(self._trial.trial_id, self._trial.phase, arm)
            added: list[tuple[Any, ...]] = [("HINCRBY", key, name, n) for name, n in whole[arm].items() if n]
            added += [("HINCRBYFLOAT", key, name, repr(value)) for name, value in sums[arm].items()]
            if added:
                commands += [*added, ("EXPIRE", key, _KEPT)]
            if users[arm]:
                key = self._keys.trial_users(self._trial.trial_id, self._trial.phase, arm)
                commands += [("PFADD", key, *users[arm]), ("EXPIRE", key, _KEPT)]
        return tuple(commands)

    def _clear(self) -> None:
        self._whole = {arm: Counter() for arm in ARMS}
        self._sums = {arm: defaultdict(float) for arm in ARMS}
        self._users = {arm: set() for arm in ARMS}

    def _add(self, arm: str, name: str, value: float) -> None:
        self._whole[arm][f"{name}:count"] += 1
        self._sums[arm][f"{name}:sum"] += value
        self._sums[arm][f"{name}:squares"] += value * value


def counts_commands(project: str, trial: Trial, phase: int) -> tuple[tuple[Any, ...], ...]:
    """The commands that ask for both arms' counts in a phase; :func:`parse_counts` reads their replies."""
    keys = EventKeys(project)
    return tuple(
        command
        for arm in ARMS
        for command in (
            ("HGETALL", keys.trial_counts(trial.trial_id, phase, arm)),
            ("PFCOUNT", keys.trial_users(trial.trial_id, phase, arm)),
        )
    )


def parse_counts(replies: Sequence[Any]) -> dict[str, ArmCounts]:
    """Arm → its counts, from the replies to :func:`counts_commands`."""
    pairs = zip(ARMS, replies[::2], replies[1::2], strict=True)
    return {arm: ArmCounts.parse(_mapping(found), users) for arm, found, users in pairs}


def _mapping(reply: Any) -> Mapping[bytes, bytes]:
    """An HGETALL's reply: redis-py makes a dict of it, except where a cluster's pipeline does not."""
    if isinstance(reply, Mapping):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))
