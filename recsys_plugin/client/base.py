"""What both clients share: their arguments, and everything that happens without waiting for a server."""

from __future__ import annotations

import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Self

from recsys_plugin.ads.serving import KnownCampaigns
from recsys_plugin.background import Warner
from recsys_plugin.client.arguments import checked_interval, checked_k, checked_timeout
from recsys_plugin.client.context import BEST_FIRST, Exploration, RequestContext, RequestRules
from recsys_plugin.client.flows import Flow
from recsys_plugin.client.release import Release, on_one_release
from recsys_plugin.client.results import Page
from recsys_plugin.client.trying import Trying, serve, shadow
from recsys_plugin.errors import ConfigurationError, DeadlineExceeded, InvalidInput, RecsysError
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.item_changes import ItemKeys
from recsys_plugin.features.item_facts import ItemPlan
from recsys_plugin.identifiers import checked_id, checked_ids
from recsys_plugin.impressions.log import ImpressionLog, ImpressionWriter
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.tensors import Array
from recsys_plugin.limits import MOST_USERS
from recsys_plugin.policy.exploration_settings import parse_exploration
from recsys_plugin.policy.page import DEFAULT_SEARCH_BLEND, SearchBlend
from recsys_plugin.policy.rules import NO_RULES, PageRules
from recsys_plugin.pseudonyms import KEY_VARIABLE, Pseudonyms
from recsys_plugin.query.recent import Recent
from recsys_plugin.settings import Settings
from recsys_plugin.trials.assignment import is_shadowed
from recsys_plugin.trials.trial import MalformedTrial

__all__ = ["LOADING_TIMEOUT", "AskUsers", "ClientBase", "beside_these", "repeatable", "time_left", "under"]

#: Seconds that loading a release may take; it happens at start-up and in ``refresh``, never within a request.
LOADING_TIMEOUT = 60.0

#: A request: makes its flow from a context and the users that it is for, who may be a part of those asked for.
AskUsers = Callable[[RequestContext, Iterable[object]], Flow]


class ClientBase(ABC):
    """The arguments of a client, read and checked.

    Args:
        redis_url: see :mod:`recsys_plugin.features.connection`.
        triton_url: see :mod:`recsys_plugin.inference.address`; with several servers, calls go to them in turn.
        timeout: seconds that a call may take, unless it says otherwise.
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

    Raises:
        ConfigurationError: if a URL is malformed.
        InvalidInput: if timeout or interval is not a number of seconds above 0.
    """

    _release: Release | None
    _trying: Trying | None = None
    """The trial of a version that this client takes part in."""
    _rules: PageRules = NO_RULES
    """The shop's rules, as they were read last."""

    def __init__(
        self,
        redis_url: str,
        triton_url: str,
        *,
        timeout: float = 0.5,
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
    ) -> None:
        self._redis_address = RedisAddress.parse(redis_url)
        self._triton_addresses = TritonAddress.parse_several(triton_url)
        self._timeout = checked_timeout(timeout)
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
            "timeout": self._timeout,
            "project": project,
            "spool": spool,
            "clock": clock,
            "event_ids": event_ids,
        }
        self._impressions = None if impressions is None else ImpressionWriter(redis_url, impressions, project=project)
        self._exploration = exploration
        self._pseudonyms = None if pseudonym_key is None else Pseudonyms(pseudonym_key)
        self._campaigns = KnownCampaigns(EventKeys(project))
        self._trial_warner = Warner("could not follow the trial of a model version")
        self._rules_warner = Warner("could not take up the rules for pages")
        self._name = uuid.uuid4().hex
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Get ready as far as is possible without waiting; a blocking client gets ready altogether."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **options: Any) -> Self:
        """Make a client from ``RECSYS_REDIS_URL``, ``RECSYS_TRITON_URL`` and what is set of ``RECSYS_SPOOL``,
        ``RECSYS_IMPRESSIONS``, ``RECSYS_EXPLORATION`` and ``RECSYS_PSEUDONYM_KEY``.

        ``RECSYS_AS_OF`` stops the clock at that moment, for historical data. ``options`` are the keyword arguments
        of the class.

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
        if settings.impressions is not None:
            options.setdefault("impressions", ImpressionLog(sample=settings.impressions))
        if settings.exploration is not None:
            options.setdefault("exploration", Exploration(parse_exploration(settings.exploration)))
        return cls(settings.redis_url, settings.triton_url, **options)

    def _context(self, release: Release) -> RequestContext:
        logs_pages = self._impressions is not None
        return RequestContext(
            release,
            self._request_ids(),
            self._clock(),
            time.perf_counter,
            self._exploration,
            logs_pages,
            self._rules,
            self._query_vectors,
        )

    def _answering(self, ask: AskUsers, user_ids: Iterable[object]) -> Callable[[Release], Flow]:
        """The flow of a request, for some users, on a release, whose pages are logged once all of them are made."""

        def answer(release: Release) -> Flow:
            context = self._context(release)
            pages = yield from ask(context, user_ids)
            if self._impressions is not None:
                self._impressions.offer(context.served)
            return pages

        return answer

    def _on_control(self, ask: AskUsers, user_ids: Iterable[object], release: Release) -> Flow:
        """The request on the release that serves."""
        return on_one_release(self._project, release, self._answering(ask, user_ids), self._adopt)

    def _on_trial(
        self, trying: Trying, ask: AskUsers, user_ids: Iterable[object], release: Release, seconds: float
    ) -> Flow:
        """The request on the release of each user's arm; one without a user is answered by the control."""
        users = checked_ids(user_ids, "user_ids", most=MOST_USERS)
        if not users:
            return self._on_control(ask, users, release)
        return serve(
            trying,
            users,
            lambda part: self._answering(ask, part),
            lambda answer: on_one_release(self._project, release, answer, self._adopt),
            timeout=seconds,
            timer=time.perf_counter,
        )

    def _in_shadow(self, trying: Trying, ask: AskUsers, pages: Sequence[Page], seconds: float) -> Flow | None:
        """The request once more on the candidate, for nobody to see; ``None`` if it was not drawn."""
        served = [page for page in pages if page.user_id is not None]
        if not served or not is_shadowed(trying.trial, served[0].request_id):
            return None
        users = [page.user_id for page in served]
        # Not by _answering: what nobody saw is no page that was served.
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

    def _adopt(self, release: Release) -> None:
        self._release = release

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_timeout(timeout)


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


def time_left(deadline: float, allowed: float) -> float:
    """Seconds until ``deadline``, a moment of ``time.monotonic``.

    Raises:
        DeadlineExceeded: if there are none; the message says how many were allowed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded(f"the {allowed * 1000:.0f} ms allowed for the call were used up")
    return left
