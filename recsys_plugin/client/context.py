"""What a request is given besides the caller's arguments, and what it keeps on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.fallback import FULL, Fallback, FallbackCache, Remembered
from recsys_plugin.client.release import Release
from recsys_plugin.client.results import RulesReport, Timings
from recsys_plugin.consent.consent import Consent
from recsys_plugin.errors import InvalidInput, RecsysError, ReleaseChanged, ServiceUnavailable
from recsys_plugin.features.plan import FeatureTensors
from recsys_plugin.identifiers import checked_ids
from recsys_plugin.impressions.document import Candidates, ServedPage
from recsys_plugin.inference.tensors import Array
from recsys_plugin.limits import MOST_SPONSORED
from recsys_plugin.observability.trace import Trace
from recsys_plugin.policy.exploration import ExplorationPolicy, NoExploration
from recsys_plugin.policy.rules import NO_RULES, PageRules, ShelfRules
from recsys_plugin.query.recent import Recent
from recsys_plugin.resilience.adaptive import AdaptiveShare

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
    strict: bool = True
    """Whether what fails is raised, and nothing stands in for it."""
    memory: Remembered = field(default_factory=lambda: Remembered(FallbackCache(0)))
    """What is kept for when a server fails; its moments are of the timer."""
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
    trace: Trace | None = field(init=False, default=None)
    """If the request is traced."""
    adaptive: AdaptiveShare | None = field(init=False, default=None)
    """Says which share of the candidates to consider at present; ``None`` for all."""
    considered: int | None = field(init=False, default=None)
    """How many candidates the first stage is asked for."""
    failure: RecsysError | None = field(init=False, default=None)
    """Why the servers are not asked any more: what is left is to be made in process."""
    fallbacks: dict[str | None, Fallback] = field(init=False, default_factory=dict)
    """User → the level of his page, where it is not the full one."""
    segment: Mapping[str, str] = field(init=False, default_factory=dict)
    """What the shop says of the user."""
    missed: list[str] = field(init=False, default_factory=list)
    """What could not be had for the page under way, though it is on the full level without it."""
    consents: dict[str | None, Consent] = field(init=False, default_factory=dict)
    """User → what he allows, where he refuses something."""
    chosen: tuple[NDArray[np.int64], NDArray[np.float32]] | None = field(init=False, default=None)
    """Rows and scores of the page under way."""
    started: float = field(init=False)
    stages: dict[str, float] = field(
        init=False, default_factory=lambda: dict.fromkeys(("features", "inference", "policy"), 0.0)
    )
    """Seconds that each stage took so far."""
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self._last = self.timer()

    def to_consider(self, candidates: int) -> int:
        """How many candidates to consider of as many as were asked for: fewer while the client is slow."""
        return candidates if self.adaptive is None else self.adaptive.of(candidates)

    def descend(self, failure: RecsysError) -> None:
        """From here on no server is asked; pages that were made are made again."""
        self.failure = failure
        self.served.clear()
        self.missed.clear()
        self.candidates = self.applied = self.chosen = None

    def miss(self, what: str, error: ServiceUnavailable) -> None:
        """Go on without something for which a server failed.

        Raises:
            ServiceUnavailable: the error, if the request is strict, or a version came up that can be asked instead.
        """
        if self.strict or isinstance(error, ReleaseChanged):
            raise error
        self.missed.append(f"without {what}: {error}")

    def fallback_of(self, user_id: str | None) -> Fallback:
        """The level of a user's page."""
        level = self.fallbacks.get(user_id, FULL)
        if not self.missed:
            return level
        return replace(level, reason="; ".join(filter(None, (level.reason, *self.missed))))

    def end_of(self, stage: str) -> None:
        """Book the time since the previous stage ended."""
        now = self.timer()
        self.stages[stage] += now - self._last
        if self.trace is not None:
            self.trace.end_of(stage, self._last, now)
        self._last = now

    def timings(self) -> Timings:
        """The stages so far, in milliseconds."""
        stages = {stage: seconds * 1000 for stage, seconds in self.stages.items()}
        return Timings(**stages, total=(self.timer() - self.started) * 1000)
