"""What both clients share: their arguments, and everything that happens without waiting for a server."""

from __future__ import annotations

import os
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from recsys_plugin.ads.serving import KnownCampaigns
from recsys_plugin.background import Warner
from recsys_plugin.client.arguments import checked_flag, checked_interval, checked_k
from recsys_plugin.client.consents import follow_refusals
from recsys_plugin.client.context import BEST_FIRST, Exploration, RequestContext, RequestRules
from recsys_plugin.client.fallback import DEFAULT_CACHE, FallbackCache, Remembered
from recsys_plugin.client.flows import Flow
from recsys_plugin.client.following import follow_rules
from recsys_plugin.client.ladder import laddered
from recsys_plugin.client.observed import Observed
from recsys_plugin.client.release import Release
from recsys_plugin.client.results import Page
from recsys_plugin.client.snapshots import READY_EVERY, Snapshots
from recsys_plugin.client.trying import Trying, serve, shadow
from recsys_plugin.errors import ConfigurationError, InvalidInput, RecsysError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.item_changes import ItemKeys
from recsys_plugin.features.item_facts import ItemPlan
from recsys_plugin.identifiers import checked_id, checked_ids
from recsys_plugin.impressions.log import ImpressionLog, ImpressionWriter
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.tensors import Array
from recsys_plugin.limits import MOST_USERS
from recsys_plugin.observability.environment import observer_from_settings
from recsys_plugin.observability.request import Observer, join
from recsys_plugin.policy.exploration_settings import parse_exploration
from recsys_plugin.policy.page import DEFAULT_SEARCH_BLEND, SearchBlend
from recsys_plugin.policy.rules import NO_RULES, PageRules
from recsys_plugin.pseudonyms import KEY_VARIABLE, Pseudonyms
from recsys_plugin.query.recent import Recent
from recsys_plugin.resilience.adaptive import AdaptiveShare, LatencyTarget
from recsys_plugin.resilience.hedging import Hedging
from recsys_plugin.resilience.values import Limits, Retry, Timeout
from recsys_plugin.settings import Settings
from recsys_plugin.trials.assignment import is_shadowed
from recsys_plugin.trials.trial import MalformedTrial

__all__ = ["LOADING_TIMEOUT", "AskUsers", "ClientBase", "beside_these", "repeatable", "under"]

#: Seconds kept back of a request's time for making its page in process if the servers fail, and because timers are
#: late; of little time, a part.
_RESERVE, _MOST_RESERVED = 0.003, 0.25

#: Seconds that loading a release may take; it happens at start-up and in ``refresh``, never within a request.
LOADING_TIMEOUT = 60.0
#: Seconds that recording and writing may take at least, where the caller does not say: nobody's page waits for it.
WRITING_TIMEOUT = 0.5
#: Seconds for what is asked beside the requests, at least.
_BESIDE_TIMEOUT = 1.0

_USUAL, _LIMITS, _RETRY, _HEDGING, _TARGET = Timeout(), Limits(), Retry(), Hedging(), LatencyTarget()

#: A request: makes its flow from a context and the users that it is for, who may be a part of those asked for.
AskUsers = Callable[[RequestContext, Iterable[object]], Flow]


class ClientBase(Observed):
    """The arguments of a client, read and checked.

    Args:
        redis_url: see :mod:`recsys_plugin.features.connection`.
        triton_url: see :mod:`recsys_plugin.inference.address`; with several servers, calls go to them in turn.
        timeout: seconds that a call may take, unless it says otherwise; or a
            :class:`~recsys_plugin.resilience.values.Timeout`, which also says how much of them reading features may
            take. It is kept whatever Redis and Triton do. Recording and writing have half a second at least, loading a
            version a minute.
        limits: how many requests at once, how many waiting, how many connections. One more is refused with
            :class:`~recsys_plugin.errors.Overloaded`.
        retry: how often a call is made anew whose connection broke, and how often a server that is away is looked for.
        hedging: with several Tritons, when a call is made once more, of the next one, and how often at most.
        latency_target: which latency ``recommend`` and ``search`` hold by considering fewer candidates while the client
            is slow, down to a tenth; ``page.candidates`` says how many. ``None`` for always as many as are asked for.
        project: the Feast project.
        refresh_every: seconds between two looks for another version to serve, made beside the requests; ``None`` for
            none, so that only :meth:`refresh` and the disappearance of a version bring another.
        follow_items: whether to take up items as they are written to the feature store: new ones become candidates
            within a second, known ones show their present title and price.
        search_blend: how search weighs meaning, words, wishes and taste.
        query_cache: of how many queries the vector is kept, so that the text encoder need not be asked again; 0 for
            none. One takes some 2 KB.
        clock: gives the time of a request, unix seconds.
        request_ids: gives each request its id.
        spool: a folder on a local disk that takes recorded events while Redis is away, see
            :class:`~recsys_plugin.events.recorder.EventRecorder`.
        event_ids: names recorded events that have no id.
        impressions: how pages are logged, beside the requests; ``None`` for not at all.
        exploration: how pages of ``recommend`` are chosen among the best candidates; the best themselves by default.
        pseudonym_key: the secret by which users are shown to others, the same as for the export; without one they are
            not, see :mod:`recsys_plugin.pseudonyms`.
        observe: told of each request, see :mod:`recsys_plugin.observability`; whoever made an observer closes it.
        strict: whether a server that fails is an error of the request, rather than a page of a lower level, see
            :mod:`recsys_plugin.client.ladder`; each request may say otherwise.
        fallback_cache: how much is kept of recent answers for when a server fails.
        snapshot: a local file that the client keeps up to date, and is opened from while no server can be reached; it
            then gets ready beside the requests. A file that is no whole snapshot is refused.

    Raises:
        ConfigurationError: if a URL is malformed.
        InvalidInput: if timeout or interval is not a number of seconds above 0.
    """

    _release: Release | None
    _trying: Trying | None = None
    """The trial of a version that this client takes part in."""
    _rules: PageRules = NO_RULES
    """The shop's rules, as they were read last."""
    _refusals: bytes | None = None
    """How often it had changed of whom nothing is to be kept, when that was read last."""

    def __init__(
        self,
        redis_url: str,
        triton_url: str,
        *,
        timeout: float | Timeout = _USUAL,
        project: str = "recsys",
        refresh_every: float | None = 1.0,
        follow_items: bool = True,
        search_blend: SearchBlend = DEFAULT_SEARCH_BLEND,
        query_cache: int = 2048,
        clock: Callable[[], float] = time.time,
        request_ids: Callable[[], str] = lambda: uuid.uuid4().hex,
        spool: str | os.PathLike[str] | None = None,
        event_ids: Callable[[], str] = lambda: uuid.uuid4().hex,
        impressions: ImpressionLog | None = None,
        exploration: Exploration = BEST_FIRST,
        pseudonym_key: str | None = None,
        limits: Limits = _LIMITS,
        retry: Retry = _RETRY,
        hedging: Hedging = _HEDGING,
        latency_target: LatencyTarget | None = _TARGET,
        observe: Observer | Sequence[Observer] = (),
        strict: bool = False,
        fallback_cache: FallbackCache = DEFAULT_CACHE,
        snapshot: str | os.PathLike[str] | None = None,
    ) -> None:
        self._redis_address = RedisAddress.parse(redis_url)
        self._triton_addresses = TritonAddress.parse_several(triton_url)
        self._allowed, self._limits, self._retry = Timeout.of(timeout), limits, retry
        self._hedging = hedging
        self._requests = _reserved(self._allowed)
        self._writing_seconds = max(self._allowed.total, WRITING_TIMEOUT)
        self._beside_seconds = max(self._allowed.total, _BESIDE_TIMEOUT)
        self._adaptive = None if latency_target is None else AdaptiveShare(latency_target)
        self._project = project
        self._follow_items = follow_items
        self._item_keys, self._item_plan = ItemKeys(project), ItemPlan(project)
        self._refresh_every = checked_interval(refresh_every)
        self._search_blend = search_blend
        self._query_vectors: Recent[tuple[int, str], Array] = Recent(checked_k(query_cache, "query_cache"))
        self._clock = clock
        self._request_ids = request_ids
        self._recording: dict[str, Any] = {
            "redis_url": redis_url,
            "timeout": self._writing_seconds,
            "project": project,
            "spool": spool,
            "clock": clock,
            "event_ids": event_ids,
        }
        self._impressions = None if impressions is None else ImpressionWriter(redis_url, impressions, project=project)
        self._exploration = exploration
        self._pseudonyms = None if pseudonym_key is None else Pseudonyms(pseudonym_key)
        self._strict = checked_flag(strict, "strict")
        self._memory = Remembered(fallback_cache)
        self._snapshots = Snapshots(None if snapshot is None else Path(snapshot), project, LOADING_TIMEOUT)
        self._campaigns = KnownCampaigns(EventKeys(project))
        self._trial_warner = Warner("could not follow the trial of a model version")
        self._rules_warner = Warner("could not take up the rules for pages")
        self._name = uuid.uuid4().hex
        self._refreshed = time.monotonic()
        self._observer = join(observe)
        self._follow()
        self._open()
        self._is_open = True

    @abstractmethod
    def _open(self) -> None:
        """Get ready as far as is possible without waiting; a blocking client gets ready altogether."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **options: Any) -> Self:
        """Make a client from ``RECSYS_REDIS_URL``, ``RECSYS_TRITON_URL`` and what is set of ``RECSYS_SPOOL``,
        ``RECSYS_IMPRESSIONS``, ``RECSYS_EXPLORATION``, ``RECSYS_PSEUDONYM_KEY`` and ``RECSYS_SNAPSHOT``.

        ``RECSYS_AS_OF`` stops the clock at that moment, for historical data. ``options`` are the keyword arguments
        of the class. Requests are observed as :mod:`recsys_plugin.observability.environment` says.

        Raises:
            ConfigurationError: if a URL is missing or malformed.
        """
        settings = Settings.from_environment(environ)
        if settings.redis_url is None or settings.triton_url is None:
            urls = {"RECSYS_REDIS_URL": settings.redis_url, "RECSYS_TRITON_URL": settings.triton_url}
            missing = " and ".join(name for name, url in urls.items() if url is None)
            raise ConfigurationError(f'{missing} not set. With servers started by `recsys up`: eval "$(recsys env)"')
        if settings.as_of is not None:
            as_of = settings.as_of.timestamp()
            options.setdefault("clock", lambda: as_of)
        options.setdefault("spool", settings.spool)
        options.setdefault("pseudonym_key", settings.pseudonym_key)
        options.setdefault("snapshot", settings.snapshot)
        if settings.impressions is not None:
            options.setdefault("impressions", ImpressionLog(sample=settings.impressions))
        if settings.exploration is not None:
            options.setdefault("exploration", Exploration(parse_exploration(settings.exploration)))
        if "observe" not in options and (observer := observer_from_settings(settings)) is not None:
            options["observe"] = observer
        return cls(settings.redis_url, settings.triton_url, **options)

    def _context(self, release: Release, *, strict: bool = True) -> RequestContext:
        """What a request is given; one that, unless strict, falls back."""
        logs_pages = self._impressions is not None
        context = RequestContext(
            release,
            self._request_ids(),
            self._clock(),
            time.perf_counter,
            self._exploration,
            logs_pages,
            self._rules,
            self._query_vectors,
            strict,
            self._memory,
        )
        context.adaptive = self._adaptive
        return context

    def _logged(self, ask: AskUsers, context: RequestContext, user_ids: Iterable[object]) -> Flow:
        """The flow of a request for some users, whose pages are logged once all of them are made."""
        pages = yield from ask(context, user_ids)
        if self._impressions is not None:
            self._impressions.offer(context.served)
        return pages

    def _on_control(self, ask: AskUsers, user_ids: Iterable[object], release: Release, strict: bool) -> Flow:
        """The request on the release that serves, with the ladder under it."""
        return laddered(
            self._project,
            release,
            lambda release: self._context(release, strict=strict),
            lambda context: self._logged(ask, context, user_ids),
            self._adopt,
        )

    def _on_trial(
        self, trying: Trying, ask: AskUsers, user_ids: Iterable[object], release: Release, seconds: float, strict: bool
    ) -> Flow:
        """The request on the release of each user's arm; one without a user is answered by the control.

        Under the candidate there is no ladder: what fails is told of it, and the control steps in.
        """
        users = checked_ids(user_ids, "user_ids", most=MOST_USERS)
        if not users:
            return self._on_control(ask, users, release, strict)
        return serve(
            trying,
            users,
            lambda part: lambda release: self._logged(ask, self._context(release), part),
            lambda part: self._on_control(ask, part, release, strict),
            timeout=seconds,
            timer=time.perf_counter,
        )

    def _in_shadow(self, trying: Trying, ask: AskUsers, pages: Sequence[Page], seconds: float) -> Flow | None:
        """The request once more on the candidate, for nobody to see; ``None`` if it was not drawn."""
        served = [page for page in pages if page.user_id is not None and not page.fallback.degraded]
        if not served or not is_shadowed(trying.trial, served[0].request_id):
            return None
        users = [page.user_id for page in served]
        # Not by _logged: what nobody saw is no page that was served.
        return shadow(trying, lambda release: ask(self._context(release), users), served, seconds, time.perf_counter)

    def _tried(self, release: Release) -> Trying | None:
        """The trial, if what serves is its control."""
        trying = self._trying
        return trying if trying is not None and trying.trial.control == release.version else None

    def _follow_trial_failed(self, error: RecsysError) -> None:
        """Say that the trial could not be followed; without a document that makes sense there is none."""
        self._trial_warner.failed(error)
        if isinstance(error, MalformedTrial):
            self._trying = None

    def pseudonym(self, user_id: object) -> str:
        """The name by which a user is shown to others: 32 hexadecimal digits, the same for as long as the key is.

        Raises:
            InvalidInput: if it is no id.
            ConfigurationError: if the client has no key.
        """
        user = checked_id(user_id, "user_id")
        if self._pseudonyms is None:
            raise ConfigurationError(f"a pseudonym needs a key: set {KEY_VARIABLE} or pass pseudonym_key")
        return self._pseudonyms.of(user)

    def _looks_every(self, release: Release) -> float | None:
        """Seconds between two looks for another version; a client without models must find one in any case."""
        if not release.is_snapshot:
            return self._refresh_every
        return min(self._refresh_every or READY_EVERY, READY_EVERY)

    def _followed(self) -> Generator[Any, Any, None]:
        """Follow, beside the requests, of whom nothing may be kept in process any more, and the shop's rules."""
        revision = yield from follow_refusals(self._project)
        if revision != self._refusals:
            self._memory.clear()
            self._refusals = revision
        self._rules = yield from follow_rules(self._project, self._rules)

    def _adopt(self, release: Release) -> None:
        self._release = release

    def _time(self, timeout: float | Timeout | None) -> Timeout:
        """What servers may take of a request's time."""
        return self._requests if timeout is None else _reserved(Timeout.of(timeout, self._allowed))

    def _writing_time(self, timeout: float | Timeout | None) -> float:
        """Seconds that a write may take."""
        return self._writing_seconds if timeout is None else Timeout.of(timeout).total

    def _is_strict(self, strict: bool | None) -> bool:
        return self._strict if strict is None else checked_flag(strict, "strict")


def repeatable(values: Iterable[object]) -> Iterable[object]:
    """The same values, such that they can be gone through twice."""
    return values if isinstance(values, Collection) or not isinstance(values, Iterable) else list(values)


def beside_these(exclude: Iterable[object], beside: Iterable[Page]) -> Iterable[object]:
    """What a page must not show: what is excluded, and what other pages show already.

    Raises:
        InvalidInput: if ``beside`` holds something else than pages.
    """
    if not isinstance(beside, Iterable):
        raise InvalidInput(f"beside: expected pages, not {type(beside).__name__}")
    pages = list(beside)
    if not pages:
        return repeatable(exclude)
    if wrong := [page for page in pages if not isinstance(page, Page)]:
        raise InvalidInput(f"beside: expected pages, not {type(wrong[0]).__name__} ({wrong[0]!r:.60})")
    if isinstance(exclude, str | bytes) or not isinstance(exclude, Iterable):
        return exclude  # to be refused with its name
    return [*exclude, *(item_id for page in pages for item_id in page.item_ids)]


def under(rules: object, sponsored: Iterable[object], ask: AskUsers) -> AskUsers:
    """The same request with the caller's own rules.

    Raises:
        InvalidInput: if they make no sense.
    """
    asked = RequestRules.of(rules, sponsored)
    if asked is None:
        return ask

    def answer(context: RequestContext, users: Iterable[object]) -> Flow:
        context.asked = asked
        return ask(context, users)

    return answer


def _reserved(allowed: Timeout) -> Timeout:
    """What servers may take of the time that a request may take: the rest is for making a page without them."""
    return replace(allowed, total=allowed.total - min(_RESERVE, _MOST_RESERVED * allowed.total))
