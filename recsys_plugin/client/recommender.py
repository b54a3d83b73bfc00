"""The blocking client.

It drives the flows of :mod:`recsys_plugin.client.flows`: where a flow yields a call, the client makes it within the
time that is left, and sends the flow the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from recsys_plugin.background import Watcher
from recsys_plugin.client import flows, ladder
from recsys_plugin.client.arrivals import TakeUp, take_up, take_up_everything
from recsys_plugin.client.base import LOADING_TIMEOUT, AskUsers, beside_these, repeatable, under
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.course import Course
from recsys_plugin.client.driving import drive, perform
from recsys_plugin.client.following import written
from recsys_plugin.client.release import Release, load_release, loaded, on_one_release
from recsys_plugin.client.results import Page
from recsys_plugin.client.shadowing import ShadowThread
from recsys_plugin.client.shelves import Shelves
from recsys_plugin.client.trying import follow_trial
from recsys_plugin.client.watching import watch_items, watch_releases
from recsys_plugin.errors import RecsysError
from recsys_plugin.events.event import Event
from recsys_plugin.events.recorder import EventRecorder
from recsys_plugin.events.recording import Recorded
from recsys_plugin.features.item_changes import ItemChanges
from recsys_plugin.features.reader import FeatureReader
from recsys_plugin.identifiers import checked_id
from recsys_plugin.inference.replicas import connect
from recsys_plugin.policy.rules import ShelfRules
from recsys_plugin.resilience.breaker import CircuitBreaker
from recsys_plugin.resilience.gate import Gate
from recsys_plugin.resilience.values import Timeout
from recsys_plugin.trials.trial import SHADOW

__all__ = ["Recommender"]

_Result = TypeVar("_Result")


class Recommender(Shelves):
    """Answers a shop's requests from Redis and Triton; safe to share between threads.

    Making one connects, finds the newest version that Triton serves, checks its feature contract against the feature
    store and loads the catalogue; a request is then arithmetic and one round trip to each server. The arguments are
    those of :class:`~recsys_plugin.client.base.ClientBase`. Raises, besides its errors, ``FeatureContractError`` when
    model and feature store disagree, and ``ServiceUnavailable`` when a server does not answer and there is no snapshot.
    """

    _release: Release

    def _open(self) -> None:
        self._loading = threading.Lock()
        self._watchers: list[Watcher] = []
        self._shadows: ShadowThread | None = None
        self._gate = Gate(self._limits)
        options: dict[str, Any] = {"timeout": self._allowed, "limits": self._limits, "retry": self._retry}
        self._reader = FeatureReader(self._redis_address, **options)
        self._reader.begin()
        self._triton = connect(self._triton_addresses, **options, hedging=self._hedging)
        self._recorder = EventRecorder(**self._recording)
        try:
            self._release, self._rules = self._run(self._snapshots.opened(), LOADING_TIMEOUT)
            if not self._release.is_snapshot:
                self._follow_trial()
            self._run(self._snapshots.kept(self._release, self._rules), LOADING_TIMEOUT)
        except BaseException:
            self.close()
            raise
        if (every := self._looks_every(self._release)) is not None:
            self._watchers.append(watch_releases(self._look, every))
        if self._follow_items:
            self._watchers.append(watch_items(self._listen, self._take_up_arrived, self._take_up_written))

    def recommend(
        self,
        user_id: object,
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        explain: bool = False,
        segment: Mapping[str, str] | None = None,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """The k items that this user is most likely to want.

        Args:
            user_id: a string or a whole number. A user that the store has never heard of is served from the
                contract's defaults, and ``page.features.known`` is false.
            k: how many items; 0 gives an empty page, more than the catalogue has gives what there is.
            exclude: item ids that must not be on the page.
            beside: pages shown together with this one: what is on them is not on this.
            rules: in place of the shop's rules for the shelf: all of them, or as a mapping those that it names, as in
                the shop's document (``{"caps": {"brand": 1}, "already": None}``).
            sponsored: items for the positions that the rules reserve, best first.
            candidates: how many the index proposes to the ranker, 1 to 10,000; at least ``k``.
            explain: whether each item is to say why it is there, see
                :class:`~recsys_plugin.client.explanation.Explanation`; it costs another call to Triton for each user.
            segment: what the shop knows of a user whom the store does not know, such as ``{"country": "DE"}``.
            timeout: seconds for this call.
            strict: whether what fails is raised, rather than told by ``page.fallback``; ``None`` for the client's.

        Raises:
            InvalidInput: for a wrong argument, which the message names.
            FeatureContractError, ServiceUnavailable: strict, if a stored value has another type than the model was
                trained with; if Redis or Triton fail, or take longer than the timeout.
        """
        users = [checked_id(user_id, "user_id")]
        return self.recommend_many(
            users, k, exclude=exclude, beside=beside, rules=rules, sponsored=sponsored,
            candidates=candidates, explain=explain, segment=segment, timeout=timeout, strict=strict,
        )[0]  # fmt: skip

    def recommend_many(
        self,
        user_ids: Iterable[object],
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        explain: bool = False,
        segment: Mapping[str, str] | None = None,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> list[Page]:
        """:meth:`recommend` for several users at once: a page for each, in order.

        One round trip to Redis and one call to Triton for as many users as the model takes in a batch.
        """
        users, excluded = repeatable(user_ids), beside_these(exclude, beside)
        return self._ask(
            under(
                rules,
                sponsored,
                lambda context, users: ladder.recommend(
                    context, users, k, exclude=excluded, candidates=candidates, explain=explain, segment=segment
                ),
            ),
            timeout,
            users,
            strict=strict,
        )

    def rank(
        self,
        user_id: object,
        item_ids: Iterable[object],
        *,
        rules: ShelfRules | Mapping[str, Any] | None = None,
        explain: bool = False,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """The given items, at most 10,000, best first for this user.

        Of an item given twice the first counts. Items that are not in the catalogue are left out and listed in
        ``page.unknown_items``; without any known item the page is empty and no server is asked. ``explain`` and what is
        raised are as for :meth:`recommend`.
        """
        asked, users = repeatable(item_ids), [checked_id(user_id, "user_id")]
        return self._ask(
            under(rules, (), lambda context, _: ladder.rank(context, user_id, asked, explain=explain)),
            timeout,
            users,
            strict=strict,
        )[0]

    def search(
        self,
        user_id: object | None,
        query: str,
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        understand: bool = True,
        explain: bool = False,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """Items that fit a query in natural language, with a touch of the user's taste; ``None`` is nobody.

        Items fit by their meaning and by their words. What a query says of prices, brands and what is not wanted
        becomes a filter, what it says of categories, colours, sizes and for whom it is a boost, and misspelt words are
        corrected: ``page.intent`` says what was understood, and ``page.relaxed`` which filters would have left
        nothing and were given up. Without ``understand`` only the meaning of the text as it is counts. With ``explain``
        items say what the user's taste, which is a part of their score, is made of.

        A query of more than 10,000 characters is refused; of a shorter one the first 400 are read, and how much of it
        counts for its meaning is up to the text encoder. Further arguments and errors are those of :meth:`recommend`.
        """
        excluded, blend = beside_these(exclude, beside), self._search_blend
        return self._ask(
            under(
                rules,
                sponsored,
                lambda context, _: ladder.search(
                    context,
                    user_id,
                    query,
                    k,
                    exclude=excluded,
                    candidates=candidates,
                    blend=blend,
                    understand=understand,
                    explain=explain,
                ),
            ),
            timeout,
            () if user_id is None else [checked_id(user_id, "user_id")],
            strict=strict,
        )[0]

    def record(self, event: Event, *, visible: bool = False, timeout: float | None = None) -> Recorded:
        """Record what a shopper did, see :meth:`EventRecorder.record`."""
        return self._recorder.record(event, visible=visible, timeout=timeout)

    def record_many(self, events: Iterable[Event], *, timeout: float | None = None) -> list[Recorded]:
        """Record several events in one round trip, see :meth:`EventRecorder.record_many`."""
        return self._recorder.record_many(events, timeout=timeout)

    @property
    def version(self) -> int:
        """The version that serves at present."""
        return self._release.version

    def refresh(self) -> int:
        """Take up the shop's rules, and the version that is to serve now: the promoted one, else the newest.

        Requests under way finish with the one they began with. It is also done by itself, see ``refresh_every``.
        Returns the version that serves from now on.
        """
        with self._loading:
            self._follow_rules()
            current = None if self._release.is_snapshot else self._release
            self._release = self._run(load_release(self._project, current), LOADING_TIMEOUT)
            self._follow_trial()
            self._run(self._snapshots.kept(self._release, self._rules), LOADING_TIMEOUT)
        self._refreshed = time.monotonic()
        return self._release.version

    def _look(self) -> None:
        if self._refresh_every is not None or self._release.is_snapshot:
            self.refresh()

    def close(self) -> None:
        """Close the connections to both servers."""
        for watcher in self._watchers:
            watcher.close(patience=1.0)
        self._end_trial()
        self._recorder.close()
        if self._impressions is not None:
            self._impressions.close()
        self._reader.close()
        self._triton.close()
        for watcher in self._watchers:
            watcher.close()  # what waited for a server that hangs does so no more
        self._leave()

    @property
    def _breakers(self) -> Mapping[str, CircuitBreaker]:
        return {str(self._redis_address): self._reader.breaker, **self._triton.breakers}

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> ItemChanges:
        return ItemChanges(self._redis_address, self._item_keys, timeout=self._beside_seconds)

    def _take_up_arrived(self, keys: list[bytes]) -> None:
        self._take_up(take_up_everything, keys)

    def _take_up_written(self, keys: list[bytes]) -> None:
        self._take_up(take_up, keys)

    def _take_up(self, take: TakeUp, keys: list[bytes]) -> None:
        item_ids = self._item_keys.item_ids
        with self._loading:
            loaded(self._release)
            taken = None
            while taken is not self._release:  # a request may take up another version meanwhile
                taken = self._release
                made = self._run(take(taken, self._item_plan, item_ids(keys)), LOADING_TIMEOUT)
            self._release = made
            trying = self._trying
            if trying is not None and trying.candidate is not None:
                release = self._run(take(trying.candidate, self._item_plan, item_ids(keys)), LOADING_TIMEOUT)
                self._trying = replace(trying, candidate=release)

    def _follow_rules(self) -> None:
        try:
            self._run(self._followed(), LOADING_TIMEOUT)
            self._rules_warner.worked()
        except RecsysError as error:
            self._rules_warner.failed(error)

    def _follow_trial(self) -> None:
        """Take up how the trial of a version stands; requests never wait for it."""
        try:
            flow = follow_trial(self._project, self._release, self._trying, now=time.time(), token=self._name)
            self._trying = self._run(flow, LOADING_TIMEOUT)
            self._trial_warner.worked()
        except RecsysError as error:
            self._follow_trial_failed(error)
        if (shadowed := self._trying is not None and self._trying.trial.mode == SHADOW) and self._shadows is None:
            self._shadows = ShadowThread(self._run_shadow)
        elif not shadowed and self._shadows is not None:
            self._shadows.close()
            self._shadows = None

    def _end_trial(self) -> None:
        """Stop taking part; what was counted is still written down."""
        if self._shadows is not None:
            self._shadows.close()
            self._shadows = None
        trying, self._trying = self._trying, None
        if trying is not None and (commands := trying.tally.drain()):
            try:
                self._run(written(commands), self._writing_seconds)
            except RecsysError as error:
                self._trial_warner.failed(error)

    def _run_shadow(self, flow: flows.Flow) -> None:
        self._run(flow, LOADING_TIMEOUT)

    def _ask_releases(
        self,
        ask: AskUsers,
        timeout: float | Timeout | None,
        user_ids: Iterable[object] = (),
        *,
        strict: bool | None = None,
        repeats: bool = True,
    ) -> list[Page]:
        """Answer a request on the release that serves at present, and during a trial on each user's own.

        ``repeats``: whether it may be asked once more, of a candidate that nobody sees the pages of.
        """
        allowed, exact, release = self._time(timeout), self._is_strict(strict), self._release
        seconds, trying = allowed.total, self._tried(release)
        if trying is None:
            return self._run(self._on_control(ask, user_ids, release, exact), allowed, self._gate)
        pages = self._run(self._on_trial(trying, ask, user_ids, release, seconds, exact), allowed, self._gate)
        if repeats and self._shadows is not None and (flow := self._in_shadow(trying, ask, pages, seconds)) is not None:
            self._shadows.offer(flow, trying.tally)
        return pages

    def _answer_on_release(
        self, ask: Callable[[RequestContext], Generator[Any, Any, _Result]], timeout: float | Timeout | None
    ) -> _Result:
        """Answer on the release that serves, trial or not, what has no page."""
        asked = on_one_release(self._project, self._release, lambda release: ask(self._context(release)), self._adopt)
        return self._run(asked, self._time(timeout), self._gate)

    def _run(self, flow: Generator[Any, Any, _Result], timeout: float | Timeout, gate: Gate | None = None) -> _Result:
        """What a flow comes to within its time; ``gate`` is for requests."""
        course = Course(Timeout.of(timeout, self._allowed), None if gate is None else self._adaptive)
        return drive(flow, course, gate, self._perform)

    def _perform(self, call: object, timeout: float) -> object:
        return perform(call, timeout, self._reader, self._triton)
