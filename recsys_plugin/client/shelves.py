"""The further shelves of a shop, for the blocking client."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypeVar, cast

from recsys_plugin.ads.serving import click_ad
from recsys_plugin.ads.store import AdClick
from recsys_plugin.client import ladder
from recsys_plugin.client.ad_pages import AdsPage
from recsys_plugin.client.arguments import checked_stock
from recsys_plugin.client.base import AskUsers, ClientBase, beside_these, repeatable, under
from recsys_plugin.client.consents import state_consent
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.following import written
from recsys_plugin.client.people import Community, SimilarUsers, community, similar_users
from recsys_plugin.client.results import Page
from recsys_plugin.consent.consent import Consent
from recsys_plugin.events.recorder import EventRecorder
from recsys_plugin.features.item_stock import stock_commands
from recsys_plugin.identifiers import checked_id
from recsys_plugin.policy.rules import ShelfRules
from recsys_plugin.resilience.values import Timeout

__all__ = ["Shelves"]

_Result = TypeVar("_Result")
_NO_CONTEXT: Mapping[str, str] = {}


class Shelves(ClientBase):
    """What a shop shows beside recommendations and search; a part of the blocking client."""

    _recorder: EventRecorder

    def similar_items(
        self,
        item_id: object,
        k: int = 20,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        sponsored: Iterable[object] = (),
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """The items nearest to one item, which is not among them.

        Nearest in the space of users and items; to an item that is newer than the catalogue, the nearest in text.
        For an item that is not known the page is empty and lists it in ``page.unknown_items``.
        Further arguments and errors are those of :meth:`recommend`.
        """
        excluded = beside_these(exclude, beside)
        return self._ask(
            under(
                rules,
                sponsored,
                lambda context, _: ladder.similar_items(context, item_id, k, exclude=excluded, candidates=candidates),
            ),
            timeout,
            strict=strict,
        )[0]

    def popular(
        self,
        k: int = 20,
        *,
        segment: Mapping[str, str] | None = None,
        category: str | None = None,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """What is popular, as of the version that serves: with everybody, or with some of the users.

        No server is asked. The scores are shares of recent purchases; of several segments they are combined, see
        :class:`~recsys_plugin.policy.popularity.Popularity`, and are no shares then.

        Args:
            segment: whose: attributes of users and their values, such as ``{"age_group": "25-34"}``. Of which the
                version tells anything is in ``page.segments``: small groups are not told of.
            category: the items' category; one that no item has gives an empty page.
            k, exclude, beside, rules, timeout, strict: as for :meth:`Recommender.recommend`.

        Raises:
            InvalidInput: for a wrong argument, which the message names.
        """
        excluded = beside_these(exclude, beside)
        return self._ask(
            under(
                rules,
                (),
                lambda context, _: ladder.popular(context, k, segment=segment, category=category, exclude=excluded),
            ),
            timeout,
            strict=strict,
        )[0]

    def onboard(
        self,
        chosen: Iterable[object],
        k: int = 20,
        *,
        user_id: object | None = None,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """Recommendations for somebody of whom a few chosen items are known: a new visitor who said what he likes.

        It is the page that he would get had he just put them into the cart; they are not on it. What he chose is not
        recorded: see :meth:`Recommender.record` for that.

        Args:
            chosen: item ids, the dearest first. Ids that are not known are listed in ``page.unknown_items``.
            k: how many items.
            user_id: whose features are taken beside them; ``None`` for somebody without any.
            exclude, beside, rules, candidates, timeout: as for :meth:`Recommender.recommend`.

        Raises as :meth:`Recommender.recommend`.
        """
        asked, excluded = repeatable(chosen), beside_these(exclude, beside)
        pages = self._ask(
            under(
                rules,
                (),
                lambda context, _: ladder.onboard(context, user_id, asked, k, exclude=excluded, candidates=candidates),
            ),
            timeout,
            () if user_id is None else [checked_id(user_id, "user_id")],
            strict=strict,
        )
        return pages[0]

    def cross_sell(
        self,
        basket: Iterable[object],
        k: int = 10,
        *,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """The items that go with a basket: bought together with its items, whereas :meth:`similar_items` are like them.

        Args:
            basket: item ids; of one given twice the first counts. Ids that are not known are listed in
                ``page.unknown_items``. Without a known item the page holds what is in many baskets of late.
            k: how many items; those of the basket are never among them.
            exclude: further item ids that must not be on the page.
            beside, rules: as for :meth:`Recommender.recommend`.
            candidates: how many to consider, 1 to 10,000; at least ``k``.
            timeout: seconds for this call.

        Raises:
            InvalidInput: for a wrong argument, which the message names.
            InferenceUnavailable: if Triton fails, or the version that serves has no model for it.
            DeadlineExceeded: if it takes longer than the timeout.
        """
        asked, excluded = repeatable(basket), beside_these(exclude, beside)
        return self._ask(
            under(
                rules,
                (),
                lambda context, _: ladder.cross_sell(context, asked, k, exclude=excluded, candidates=candidates),
            ),
            timeout,
            strict=strict,
        )[0]

    def cross_category(
        self,
        user_id: object,
        k: int = 10,
        *,
        per_category: int = 2,
        exclude: Iterable[object] = (),
        beside: Iterable[Page] = (),
        rules: ShelfRules | Mapping[str, Any] | None = None,
        candidates: int = 500,
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> Page:
        """Recommended items of categories that are new to the user, at most ``per_category`` of each.

        New is a category of which neither what the user bought most nor his latest acts hold an item. Items without a
        category are left out. A user that the store has never heard of is served from the contract's defaults, all
        categories being new; for one who knows all of them the page is empty.
        Raises as :meth:`Recommender.recommend`.
        """
        excluded, users = beside_these(exclude, beside), [checked_id(user_id, "user_id")]
        return self._ask(
            under(
                rules,
                (),
                lambda context, _: ladder.cross_category(
                    context, user_id, k, per_category=per_category, exclude=excluded, candidates=candidates
                ),
            ),
            timeout,
            users,
            strict=strict,
        )[0]

    def similar_users(self, user_id: object, k: int = 10, *, timeout: float | Timeout | None = None) -> SimilarUsers:
        """The users nearest to one in the space of users and items, nearest first, as pseudonyms.

        They are the users of the last export; whoever opted out, then or since, is not among them. For a user who
        opted out, and for one that the store has never heard of, there is nobody.

        Args:
            user_id: a string or a whole number.
            k: how many, 10,000 at most; more than there are gives what there is.
            timeout: seconds for this call.

        Raises:
            InvalidInput: for a wrong argument, which the message names.
            ConfigurationError: if client and export have not the same pseudonym key.
            ServiceUnavailable: if Redis or Triton fail, or take longer than the timeout.
        """
        return self._answer(lambda context: similar_users(context, self._pseudonyms, user_id, k), timeout)

    def community(self, user_id: object, *, timeout: float | Timeout | None = None) -> Community | None:
        """The community of a user: its size at the export, and what its members buy more than others.

        ``None`` for a user who opted out, for one that the store has never heard of, and where the shop has fewer users
        than a community needs. Raises as :meth:`similar_users`.
        """
        return self._answer(lambda context: community(context, self._pseudonyms, user_id), timeout)

    def set_consent(
        self,
        user_id: object,
        *,
        personalised: bool = True,
        tracking: bool = True,
        timeout: float | Timeout | None = None,
    ) -> None:
        """Write down what a user allows; every client honours it from his next request on.

        Args:
            personalised: whether pages may be made of what is known of him. If not, he gets those of somebody unknown,
                and ``page.personalised`` is false.
            tracking: whether his events and pages may be kept. If not, pages of his are not logged, and events of his
                are dropped by the stream and the archive.
            timeout: seconds for this call.

        Raises:
            InvalidInput: for a wrong argument. StoreUnavailable, DeadlineExceeded: for Redis.
        """
        consent = Consent(personalised, tracking)
        self._answer(lambda context: state_consent(context, user_id, consent), timeout)

    def set_stock(self, stock: Mapping[Any, int], *, timeout: float | Timeout | None = None) -> None:
        """Tell the feature store how many of some items can be sold now: what is at 0 leaves the pages of all clients.

        Args:
            stock: item id → units, at most 10,000 items. timeout: seconds for this call.

        Raises:
            InvalidInput: for anything that is no id or no whole number from 0 on.
            StoreUnavailable, DeadlineExceeded: for Redis; some of the items may have been written.
        """
        commands = stock_commands(self._project, checked_stock(stock), now=self._clock())
        if commands:
            self._run(written(commands), self._writing_time(timeout))

    def ads(
        self,
        user_id: object,
        slots: int = 1,
        *,
        context: Mapping[str, str] = _NO_CONTEXT,
        exclude: Iterable[object] = (),
        timeout: float | Timeout | None = None,
        strict: bool | None = None,
    ) -> AdsPage:
        """Up to so many ads for a user: an auction between the campaigns that may be shown to him now.

        An ad counts as shown when this returns, so ask for as many as you show. Campaigns that were paused, changed or
        ran out since the last request are taken as they are now. Without any that fits, the page is empty.

        Args:
            user_id: as for :meth:`Recommender.recommend`; a user who is not known sees the campaigns that have no
                conditions on the user's features, priced with the contract's defaults.
            slots: how many; 0 gives an empty page and asks no server.
            context: what campaigns may be targeted by: ``{"page": "home", "category": "tea"}``.
            exclude: item ids that must not be advertised.
            timeout: seconds for this call.

        Raises:
            InvalidInput, FeatureContractError, ServiceUnavailable: as :meth:`Recommender.recommend`. Where a call fails
            after its ads were noted as shown, they stay so; nothing is charged without a click.
        """
        users, excluded = [checked_id(user_id, "user_id")], repeatable(exclude)
        pages = self._ask(
            lambda request, _: ladder.ads(request, self._campaigns, user_id, slots, about=context, exclude=excluded),
            timeout,
            users,
            strict=strict,
            repeats=False,
        )
        return cast(AdsPage, pages[0])

    def record_ad_click(self, impression_id: object, *, timeout: float | Timeout | None = None) -> AdClick:
        """Charge a click on an ad: once, however often it is told, and never more than is left of the budget.

        That is all it does: what the user's click says about his taste goes to :meth:`Recommender.record`, as with
        any item.

        Args:
            impression_id: of the :class:`~recsys_plugin.client.ad_pages.AdItem`.

        Raises:
            InvalidInput: if it is no id; one that was never given out, or too long ago, is ``unknown``.
            StoreUnavailable, DeadlineExceeded: if Redis does not answer; calling again is safe.
        """
        clicked = checked_id(impression_id, "impression_id")
        return self._run(click_ad(self._campaigns, clicked, now=self._clock()), self._writing_time(timeout))

    def _ask(
        self,
        ask: AskUsers,
        timeout: float | Timeout | None,
        user_ids: Iterable[object] = (),
        *,
        strict: bool | None = None,
        repeats: bool = True,
    ) -> list[Page]:
        """Answer a request, and tell the observer of it."""
        if self._observer is None:
            return self._ask_releases(ask, timeout, user_ids, strict=strict, repeats=repeats)
        with self._watched(self._observer, timeout) as watch:
            pages = self._ask_releases(watch.over(ask), timeout, user_ids, strict=strict, repeats=repeats)
            watch.pages = pages
        return pages

    def _answer(
        self, ask: Callable[[RequestContext], Generator[Any, Any, _Result]], timeout: float | Timeout | None
    ) -> _Result:
        """Answer what has no page, and tell the observer of it."""
        if self._observer is None:
            return self._answer_on_release(ask, timeout)
        with self._watched(self._observer, timeout) as watch:
            watched = watch.over(lambda context, _: ask(context))
            return self._answer_on_release(lambda context: watched(context, ()), timeout)

    @property
    def _recorded(self) -> tuple[Mapping[str, int], bool]:
        return self._recorder.counts, self._recorder.spooling

    @abstractmethod
    def _answer_on_release(
        self, ask: Callable[[RequestContext], Generator[Any, Any, _Result]], timeout: float | Timeout | None
    ) -> _Result:
        """Answer on the release that serves what has no page."""

    @abstractmethod
    def _ask_releases(
        self,
        ask: AskUsers,
        timeout: float | Timeout | None,
        user_ids: Iterable[object] = (),
        *,
        strict: bool | None = None,
        repeats: bool = True,
    ) -> list[Page]:
        """Answer a request."""

    @abstractmethod
    def _run(self, flow: Generator[Any, Any, _Result], timeout: float) -> _Result:
        """Drive a flow to its end."""
