"""Which worker owns which partition: shared out evenly, taken over from the dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recsys_plugin.events.keys import PARTITIONS, EventKeys

__all__ = ["LEASE_SECONDS", "PartitionLeases"]

#: A worker that is silent for so long has lost its partitions.
LEASE_SECONDS = 3.0
_TEND_SECONDS = 0.5
#: Renew, or give back, only what is still ours.
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class PartitionLeases:
    """The partitions of one worker.

    Args:
        ask: performs commands, many at a time, and returns their answers.
        keys: where the leases lie.
        worker: a name that no other worker has.
        timer: seconds that only run forward.
    """

    def __init__(
        self,
        ask: Callable[[list[tuple[Any, ...]]], list[Any]],
        keys: EventKeys,
        worker: str,
        timer: Callable[[], float],
    ) -> None:
        self._ask, self._keys, self.worker, self._timer = ask, keys, worker, timer
        self.owned: set[int] = set()
        self._tended = float("-inf")

    def tend(self) -> tuple[set[int], set[int]]:
        """Twice a second: say that this worker lives, renew, take what is free and due to it, give back the excess.

        Returns:
            Partitions gained and partitions lost since the last call.
        """
        now = self._timer()
        if now - self._tended < _TEND_SECONDS:
            return set(), set()
        self._tended = now
        before = set(self.owned)
        share = self._share()
        renewals = sorted(self.owned)
        renewed = self._ask([self._script(_RENEW, number, int(LEASE_SECONDS * 1000)) for number in renewals])
        self.owned = {number for number, done in zip(renewals, renewed, strict=True) if done}
        for number in sorted(self.owned, reverse=True)[: max(0, len(self.owned) - share)]:
            self.release({number})
        for number in range(PARTITIONS):
            if len(self.owned) >= share:
                break
            if number not in self.owned:
                key, lease = self._keys.owner(number), int(LEASE_SECONDS * 1000)
                (taken,) = self._ask([("SET", key, self.worker, "NX", "PX", lease)])
                if taken:
                    self.owned.add(number)
        return self.owned - before, before - self.owned

    def _share(self) -> int:
        """How many partitions are this worker's due, those of workers that live counted."""
        ((seconds, _),) = self._ask([("TIME",)])
        silent = int(seconds) - LEASE_SECONDS - 1
        *_, living = self._ask(
            [
                ("ZADD", self._keys.workers, int(seconds), self.worker),
                ("ZREMRANGEBYSCORE", self._keys.workers, "-inf", silent),
                ("ZRANGE", self._keys.workers, 0, -1),
            ]
        )
        names = sorted(name.decode() for name in living)
        share, rest = divmod(PARTITIONS, len(names))
        return share + (names.index(self.worker) < rest)

    def release(self, partitions: set[int]) -> None:
        """Give partitions back."""
        self._ask([self._script(_RELEASE, number) for number in sorted(partitions)])
        self.owned -= partitions

    def leave(self) -> None:
        """Give everything back: this worker ends."""
        self.release(set(self.owned))
        self._ask([("ZREM", self._keys.workers, self.worker)])

    def lose(self) -> None:
        """Forget what is owned, because nobody can tell: the server was away."""
        self.owned = set()
        self._tended = float("-inf")

    def _script(self, text: str, partition: int, *arguments: Any) -> tuple[Any, ...]:
        return ("EVAL", text, 1, self._keys.owner(partition), self.worker, *arguments)
