"""What a request is given besides the caller's arguments, and what it keeps on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from recsys_plugin.client.release import Release
from recsys_plugin.client.results import RulesReport, Timings
from recsys_plugin.errors import InvalidInput
from recsys_plugin.features.plan import FeatureTensors
from recsys_plugin.identifiers import checked_ids
from recsys_plugin.impressions.document import Candidates, ServedPage
from recsys_plugin.inference.tensors import Array
from recsys_plugin.limits import MOST_SPONSORED
from recsys_plugin.policy.exploration import ExplorationPolicy, NoExploration
from recsys_plugin.policy.rules import NO_RULES, PageRules, ShelfRules
from recsys_plugin.query.recent import Recent

__all__ = ["BEST_FIRST", "Exploration", "RequestContext", "RequestRules"]


@dataclass(frozen=True, slots=True)
class Exploration:
    """How recommended pages are chosen among the best candidates.

    Args:
        policy: chooses, and says how likely what it chose was.
        pool: how many of the best candidates it chooses from; at least the page's length.
        seed: with the ids of request and user it fixes the page, so that a page can be made again.

    Raises:
        InvalidInput: if the pool is empty.
    """

    policy: ExplorationPolicy = field(default_factory=NoExploration)
    pool: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise InvalidInput(f"exploration: a pool of {self.pool} items is empty")

    @property
    def explores(self) -> bool:
        """Whether a page may be another than the best."""
        return not isinstance(self.policy, NoExploration)

    def generator(self, request_id: str, user_id: str) -> np.random.Generator:
        """The randomness of one page."""
        digest = blake2b(f"{self.seed}:{request_id}:{user_id}".encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))


#: Pages of the best candidates, without chance.
BEST_FIRST = Exploration()


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What a caller says of a page's rules."""

    rules: ShelfRules | Mapping[str, Any] | None = None
    """In place of the shop's: all of them, or as a mapping those that it names, as in the shop's document."""
    sponsored: tuple[str, ...] = ()
    """Items for the positions that the rules reserve, best first."""

    @classmethod
    def of(cls, rules: object, sponsored: Iterable[object]) -> RequestRules | None:
        """The caller's arguments, checked as far as is possible without the shop's rules; ``None`` if there are none.

        Raises:
            InvalidInput: naming the argument.
        """
        if rules is not None and not isinstance(rules, ShelfRules | Mapping):
            raise InvalidInput(f"rules: {rules!r:.60} is neither ShelfRules nor a mapping of rules")
        items = tuple(checked_ids(sponsored, "sponsored", most=MOST_SPONSORED))
        return None if rules is None and not items else cls(rules, items)


@dataclass(slots=True)
class RequestContext:
    """What a request is given besides the caller's arguments, and how long its stages took."""

    release: Release
    request_id: str
    now: float
    """The request's time, unix seconds: ages of features count from here."""
    timer: Callable[[], float]
    """Seconds that only run forward."""
    exploration: Exploration = BEST_FIRST
    """How recommended pages are chosen."""
    logs_pages: bool = False
    """Whether what is logged of pages is kept."""
    rules: PageRules = NO_RULES
    """The shop's."""
    query_vectors: Recent[tuple[int, str], Array] = field(default_factory=lambda: Recent(0))
    """Version and query → its vector, float32 ``[1, D]``."""
    asked: RequestRules | None = field(init=False, default=None)
    """The caller's."""
    served: list[ServedPage] = field(init=False, default_factory=list)
    """The pages so far, if they are logged; empty ones are not."""
    features: Mapping[str, tuple[FeatureTensors, int]] = field(init=False, default_factory=dict)
    """User → the tensors last read, and the user's line in them."""
    candidates: Candidates | None = field(init=False, default=None)
    """What the page under way was chosen from."""
    policies: dict[str, Any] = field(init=False, default_factory=dict)
    """Shelf → the rules that hold for it, see :mod:`recsys_plugin.client.shelf_rules`."""
    applied: RulesReport | None = field(init=False, default=None)
    """The rules of the page under way."""
    started: float = field(init=False)
    _stages: dict[str, float] = field(
        init=False, default_factory=lambda: dict.fromkeys(("features", "inference", "policy"), 0.0)
    )
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self._last = self.timer()

    def end_of(self, stage: str) -> None:
        """Book the time since the previous stage ended."""
        now = self.timer()
        self._stages[stage] += now - self._last
        self._last = now

    def timings(self) -> Timings:
        """The stages so far, in milliseconds."""
        stages = {stage: seconds * 1000 for stage, seconds in self._stages.items()}
        return Timings(**stages, total=(self.timer() - self.started) * 1000)
