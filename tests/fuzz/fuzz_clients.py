"""Every public method of both clients, asked of real servers with arguments right and wrong."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Mapping
from typing import Any

from fuzz_targets import FuzzTarget
from fuzz_values import ANYTHING, MOMENTS, only
from hypothesis import strategies as st

from recsys_plugin import AdClick, AsyncRecommender, Community, Event, Page, Recommender, Recorded, SimilarUsers
from recsys_plugin.client.ad_pages import AdsPage
from recsys_plugin.errors import ConfigurationError, InvalidInput, ServiceUnavailable

__all__ = ["client_targets"]

#: Seconds allowed for a call whose timeout is a number, and by how much more it is taken to hang: other calls have the
#: client's 2 s, and a busy machine may hold it up as well.
_TIMEOUT, _PATIENCE = 0.5, 10.0

_ITEMS = st.sampled_from(["tea", "cup", "pot", "mug", "jar", "box", "gone"])
_USER = st.sampled_from(["mug-lover", "nobody-knows", "7"]) | st.integers(0, 9)
_RULES = st.none() | st.sampled_from(
    [{}, {"caps": {"brand": 1}, "already": None}, {"price": {"highest": 3}}, {"pins": [{"item": "box", "position": 1}]}]
)
_EVENT = st.builds(
    Event, user_id=_USER.map(str), item_id=_ITEMS, event_type=st.sampled_from(["click", "cart", "purchase"])
)
#: Parameter → values that are right, or nearly.
_RIGHT: Mapping[str, st.SearchStrategy[Any]] = {
    "user_id": _USER,
    "user_ids": st.lists(_USER, max_size=3),
    "item_id": _ITEMS,
    "item_ids": st.lists(_ITEMS, max_size=8),
    "basket": st.lists(_ITEMS, max_size=4),
    "chosen": st.lists(_ITEMS, max_size=4),
    "k": st.integers(0, 8),
    "slots": st.integers(0, 3),
    "per_category": st.integers(1, 3),
    "candidates": st.integers(1, 600),
    "exclude": st.lists(_ITEMS, max_size=3),
    "beside": st.just(()),
    "sponsored": st.lists(_ITEMS, max_size=2),
    "rules": _RULES,
    "explain": st.booleans(),
    "understand": st.booleans(),
    "visible": st.just(False),
    "strict": st.sampled_from([None, True, False]),
    "query": st.text(max_size=40) | st.sampled_from(["green tea under 3", "not clay", "pto", "茶", "-" * 500]),
    "timeout": st.just(_TIMEOUT),
    "stock": st.dictionaries(_ITEMS, st.integers(1, 9), max_size=3),
    "context": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    "impression_id": st.text(min_size=1, max_size=10),
    "event": _EVENT,
    "events": st.lists(_EVENT, max_size=3),
    "moment": MOMENTS,
    "segment": st.none() | st.dictionaries(st.sampled_from(["country", "x"]), st.sampled_from(["DE", ""]), max_size=2),
    "category": st.none() | st.sampled_from(["kitchen", "food", "nowhere"]),
}
#: Method → what it returns; of others it does not matter.
_RETURNS: Mapping[str, tuple[type, ...]] = {
    "recommend": (Page,),
    "recommend_many": (list,),
    "rank": (Page,),
    "search": (Page,),
    "similar_items": (Page,),
    "cross_sell": (Page,),
    "cross_category": (Page,),
    "onboard": (Page,),
    "ads": (AdsPage,),
    "popular": (Page,),
    "similar_users": (SimilarUsers,),
    "community": (Community, type(None)),
    "set_stock": (type(None),),
    "record": (Recorded,),
    "record_many": (list,),
    "record_ad_click": (AdClick,),
    "pseudonym": (str,),
}
_LEFT_OUT = {"close", "from_environment", "refresh", "version"}


def client_targets(client: Recommender, awaiting: AsyncRecommender, runner: asyncio.Runner) -> tuple[FuzzTarget, ...]:
    """A target for each client: a method, and arguments for it.

    Args:
        client: connected to the tiny shop. awaiting: the same for asyncio, with nothing going on beside its calls.
        runner: runs its calls.
    """
    methods = sorted(name for name in dir(Recommender) if not name.startswith("_") and name not in _LEFT_OUT)

    def blocking(call: tuple[str, dict[str, Any]]) -> None:
        name, arguments = call
        _check(name, lambda: getattr(client, name)(**arguments))

    def awaited(call: tuple[str, dict[str, Any]]) -> None:
        name, arguments = call

        async def ask() -> Any:
            found = getattr(awaiting, name)(**arguments)
            return await found if inspect.isawaitable(found) else found

        _check(name, lambda: runner.run(ask()))

    calls = st.sampled_from(methods).flatmap(_calls)
    return FuzzTarget("Recommender", calls, blocking, 10), FuzzTarget("AsyncRecommender methods", calls, awaited, 4)


def _calls(name: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """Arguments of a method: most of them right, since the first wrong one is as far as a call gets."""
    parameters = [each for each in inspect.signature(getattr(Recommender, name)).parameters if each != "self"]

    def values(parameter: str) -> st.SearchStrategy[Any]:
        right = _RIGHT.get(parameter, ANYTHING)
        if parameter == "timeout":
            return right | st.sampled_from([None, 0, -1.0, float("nan"), float("inf"), True, "1", 1e-9, 10**400])
        if parameter == "visible":  # would wait for a worker, and there is none
            return right
        return st.integers(0, 5).flatmap(lambda draw: ANYTHING if draw == 0 else right)

    return st.tuples(st.just(name), st.fixed_dictionaries({each: values(each) for each in parameters}))


def _check(name: str, call: Any) -> None:
    began = time.monotonic()
    found = only(call, InvalidInput, ConfigurationError, ServiceUnavailable)
    took = time.monotonic() - began
    assert took < _TIMEOUT + _PATIENCE, f"{name} took {took:.1f} s"
    if found is None:
        return
    assert isinstance(found, _RETURNS.get(name, (object,))), f"{name} returned a {type(found).__name__}"
    for page in found if isinstance(found, list) else [found]:
        if isinstance(page, Page | AdsPage):
            json.dumps(page.to_dict(), allow_nan=False)
            assert all(isinstance(item_id, str) for item_id in page.item_ids)
