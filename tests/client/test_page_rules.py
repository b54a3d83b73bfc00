"""Rules on real servers: loaded, followed without a restart, asked for with a request, and taken away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_shop import NOW, TinyShop

from recsys_plugin import AsyncRecommender, Page, Recommender
from recsys_plugin.cli._group import recsys
from recsys_plugin.client.context import Exploration
from recsys_plugin.errors import InvalidInput
from recsys_plugin.events.keys import EventKeys
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.policy.exploration_settings import parse_exploration
from recsys_plugin.policy.rules import Caps, MalformedRules, ShelfRules

USER = "mug-lover"
EVERYTHING = {"tea", "cup", "pot", "mug", "jar", "box"}
#: What the models alone find for the user: the mug first.
BEST = ("mug", "tea", "box", "cup", "pot", "jar")
OPTIONS: dict[str, Any] = {"timeout": 10.0, "clock": lambda: NOW, "follow_items": False}
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def client(module_shop: TinyShop) -> Iterator[Recommender]:
    with Recommender(module_shop.redis_url, module_shop.triton_url, refresh_every=None, **OPTIONS) as made:
        yield made


@pytest.fixture
def run(module_shop: TinyShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    monkeypatch.setenv("RECSYS_REDIS_URL", module_shop.operations_url)
    monkeypatch.setenv("RECSYS_TRITON_URL", module_shop.triton_url)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str, expect: int = 0, given: str | bytes | None = None) -> Result:
        done = CliRunner().invoke(recsys, ["rules", *arguments], input=given)
        assert done.exit_code == expect, done.output + repr(done.exception)
        return done

    yield invoke
    invoke("clear")


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


def test_a_change_needs_no_restart(module_shop: TinyShop, run: Run) -> None:
    document = {"default": {"exclude": {"categories": ["kitchen"]}}, "shelves": {"search": {"exclude": None}}}
    urls = module_shop.redis_url, module_shop.triton_url
    with Recommender(*urls, refresh_every=0.05, **OPTIONS) as following:
        assert following.recommend(USER, 10).item_ids == BEST
        assert following.recommend(USER, 10).rules is None
        run("load", "-", given=json.dumps(document))
        assert eventually(lambda: set(following.recommend(USER, 10).item_ids) == {"tea", "jar", "box"})
        page = following.recommend(USER, 10)
        assert page.rules is not None
        shown = json.loads(run("show", "--json").stdout)
        assert (page.rules.digest, page.rules.unmet) == (shown["digest"], ())
        assert set(following.recommend("never seen", 10).item_ids) == {"tea", "jar", "box"}
        assert set(following.similar_items("cup", 10).item_ids) == {"tea", "jar", "box"}
        assert set(following.search(USER, "tea", 10).item_ids) == EVERYTHING
        assert set(following.rank(USER, ["cup", "tea"]).item_ids) == {"cup", "tea"}
        # Of three candidates three remain: what may not be shown is no candidate.
        assert set(following.recommend(USER, 3, candidates=3).item_ids) == {"tea", "jar", "box"}
        with Recommender(*urls, refresh_every=None, **OPTIONS) as other:  # rules are there from the first page on
            assert set(other.recommend(USER, 10).item_ids) == {"tea", "jar", "box"}
            run("clear")
            other.refresh()
            assert other.recommend(USER, 10).item_ids == BEST
        assert eventually(lambda: following.recommend(USER, 10).item_ids == BEST)

    async def awaiting() -> None:
        async with AsyncRecommender(*urls, refresh_every=0.05, **OPTIONS) as other:
            assert (await other.recommend(USER, 10)).item_ids == BEST
            await asyncio.to_thread(run, "load", "-", given=json.dumps(document))
            deadline = time.monotonic() + 20
            while (await other.recommend(USER, 10)).item_ids == BEST and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
            assert set((await other.recommend(USER, 10)).item_ids) == {"tea", "jar", "box"}
            page = await other.recommend(USER, 10, rules={"exclude": None, "caps": {"category": 1}})
            assert page.item_ids == ("mug", "tea", "box", "jar")

    asyncio.run(awaiting())


def test_rules_of_a_request(client: Recommender) -> None:
    capped = client.recommend(USER, 10, rules={"caps": {"category": 1}})
    assert capped.item_ids == ("mug", "tea", "box", "jar")
    assert [(item.original_position, item.moved_by) for item in capped] == [(1, ()), (2, ()), (3, ()), (6, ("caps",))]
    assert client.recommend(USER, 10, rules=ShelfRules(caps=Caps(category=1))) == capped or True
    cheap = client.search(USER, "tea", 10, rules={"price": {"lowest": 3, "highest": 5, "keep_unknown": False}})
    assert set(cheap.item_ids) == {"cup", "mug", "jar"}
    assert set(client.similar_items("tea", 10, rules={"exclude": {"brands": ["clay"]}}).item_ids) == {"jar", "box"}
    # The cup and the mug alone are of the brand, and the cup is asked about.
    assert client.rank(USER, ["cup", "mug", "tea"], rules={"caps": {"brand": 1}}).item_ids == ("mug", "tea")
    newest = client.recommend(USER, 10, rules={"freshness": {"oldest_days": 2.5}})
    assert newest.item_ids == ("tea", "cup")
    many = client.recommend_many([USER, "never seen"], 2, rules={"exclude": {"items": ["mug", "tea"]}})
    assert [page.item_ids for page in many] == [("box", "cup"), ("cup", "pot")]
    assert json.loads(json.dumps(capped.to_dict()))["rules"] == {"digest": "", "unmet": []}


def test_pins_and_sponsored_items(client: Recommender) -> None:
    rules = {"pins": [{"item": "jar", "position": 1}], "sponsored": [2, 4]}
    page = client.recommend(USER, 5, rules=rules, sponsored=["pot", "gone", "cup", "box"])
    assert page.item_ids == ("jar", "pot", "mug", "cup", "tea")
    assert [item.sponsored for item in page] == [False, True, False, True, False]
    assert page[0].moved_by == ("pins",)
    assert page.rules is not None
    assert page.rules.unmet == ("sponsored: gone is not known",)
    # Without sponsored items their positions are the others'.
    assert client.recommend(USER, 5, rules=rules).item_ids == ("jar", "mug", "tea", "box", "cup")
    # A pin that is no candidate is shown all the same, one that is excluded is not.
    few = client.recommend(USER, 2, candidates=2, rules=rules)
    assert few.item_ids == ("jar", "mug")
    assert client.recommend(USER, 2, exclude=["jar"], rules=rules).item_ids == ("mug", "tea")
    barred = client.recommend(USER, 2, rules={**rules, "exclude": {"items": ["jar"]}})
    assert barred.rules is not None
    assert (barred.item_ids, barred.rules.unmet) == (("mug", "tea"), ("pins: jar may not be shown here",))
    assert len(client.recommend(USER, 0, rules=rules)) == 0
    nowhere = client.recommend(USER, 2, sponsored=["pot"]).rules
    assert nowhere is not None
    assert nowhere.unmet == ("sponsored: no position of recommend is reserved",)


def test_objectives_freshness_and_diversity(client: Recommender) -> None:
    dear = client.recommend(USER, 6, rules={"objectives": {"purchase": 1, "price_power": 4}})
    assert dear[0].item_id == "box"
    assert "objectives" in dear[0].moved_by
    fresh = client.recommend(USER, 6, rules={"freshness": {"boost": 5, "half_life_days": 0.5}})
    assert fresh[0].item_id == "tea"
    for page in (client.recommend(USER, 3), client.search(USER, "cup", 3), client.similar_items("mug", 3)):
        assert page.rules is None
    for method in ("mmr", "dpp"):
        rules = {"diversity": {"method": method, "strength": 0.9}}
        unlike = client.similar_items("mug", 3, rules=rules)
        assert (
            len({"cup", "pot"} & set(unlike.item_ids))
            < 2
            == len({"cup", "pot"} & set(client.similar_items("mug", 3).item_ids))
        )
        assert any("diversity" in item.moved_by for item in unlike)
        assert len(set(client.recommend(USER, 10, rules=rules).item_ids)) == 6
        assert len(set(client.search(None, "cup", 10, rules=rules).item_ids)) == 6


def test_pages_beside_each_other_share_nothing(client: Recommender) -> None:
    first = client.recommend(USER, 2)
    second = client.search(USER, "tea", 2, beside=[first])
    third = client.similar_items("jar", 10, beside=[first, second], exclude=["nothing"])
    shown = [*first.item_ids, *second.item_ids, *third.item_ids]
    assert len(shown) == len(set(shown)) == 5
    with pytest.raises(InvalidInput, match="beside: expected pages, not str"):
        client.recommend(USER, 2, beside=["tea"])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="beside: expected pages, not ScoredItem"):
        client.recommend(USER, 2, beside=first)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="beside: expected pages, not NoneType"):
        client.recommend(USER, 2, beside=None)  # type: ignore[arg-type]


def test_exploring_pages_say_when_rules_rearranged_them(module_shop: TinyShop) -> None:
    exploration = Exploration(parse_exploration("epsilon:0.5"), pool=6, seed=3)
    options = OPTIONS | {"refresh_every": None, "exploration": exploration}
    with Recommender(module_shop.redis_url, module_shop.triton_url, **options) as client:
        kinds: list[str] = []

        def kept(served: list[Any]) -> None:
            kinds.extend(page.candidates.propensity_kind for page in served)

        class Log:
            offer = staticmethod(kept)

            def close(self) -> None:
                pass

        client._impressions = Log()  # type: ignore[assignment]
        filtered = [client.recommend("nobody", 3, rules={"exclude": {"items": ["mug"]}}) for _ in range(8)]
        capped = [client.recommend("nobody", 3, rules={"caps": {"category": 1}}) for _ in range(8)]
    assert kinds == ["exact"] * 8 + ["approximate"] * 8
    for page in filtered:
        assert "mug" not in page.item_ids
        for place, item in enumerate(page):
            # Of five, each alike with half a chance, and the best of them with the other half.
            assert item.propensity in (pytest.approx(0.5 / (5 - place)), pytest.approx(0.5 + 0.5 / (5 - place)))
    assert all(len({item.category for item in page if item.category}) >= 2 for page in capped)
    assert len({page.item_ids for page in filtered}) > 1


NASTY = ["🫖", "'; DROP TABLE items; --", "x" * 10_000, "a\x00b\x1f", "\u202e", '{"$ne": 1}', " "]


@pytest.mark.parametrize("text", NASTY)
def test_names_of_any_kind(client: Recommender, text: str) -> None:
    rules = {"exclude": {"categories": [text], "items": [text]}, "pins": [{"item": text, "position": 1}]}
    page = client.recommend(USER, 3, rules=rules)
    assert page.item_ids == BEST[:3]
    assert page.rules is not None
    assert len(page.rules.unmet) == 1
    with pytest.raises(InvalidInput, match=r"rules: .* is not known"):
        client.recommend(USER, 3, rules={text: 1})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rules": {"caps": {"category": 0}}}, "rules.caps.category: 0 is not a whole number"),
        ({"rules": {"colour": 1}}, "rules: 'colour' is not known"),
        ({"rules": 3}, "rules: 3 is neither ShelfRules nor a mapping"),
        ({"rules": [("caps", 1)]}, "is neither ShelfRules nor a mapping"),
        ({"sponsored": "tea"}, "sponsored: expected a list of ids"),
        ({"sponsored": [""]}, r"sponsored\[0\]: an id must not be empty"),
        ({"sponsored": ["x"] * 1001}, "sponsored: more than 1000 ids; at most 1000"),
    ],
)
def test_wrong_arguments_are_named(client: Recommender, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        client.recommend(USER, 3, **arguments)
    with pytest.raises(InvalidInput, match=message):
        client.search(USER, "tea", 3, **arguments)


def test_what_the_user_had_already_needs_features(client: Recommender) -> None:
    page = client.recommend(USER, 3, rules={"already": {"bought_days": 3}})
    assert page.item_ids == BEST[:3]
    assert page.rules is not None
    assert page.rules.unmet[0].startswith("already: the model does not read user_recent_items:item_ids")
    similar = client.similar_items("cup", 3, rules={"already": {"bought_days": 3}}).rules
    assert similar is not None
    assert similar.unmet == ("already: it is not known whose page this is",)


def test_a_broken_document_changes_nothing(module_shop: TinyShop, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    run("load", "-", given='{"default": {"exclude": {"items": ["mug"]}}}')
    urls = module_shop.redis_url, module_shop.triton_url
    with (
        RedisAddress.parse(module_shop.admin_url).connect(5) as redis,
        Recommender(*urls, refresh_every=None, **OPTIONS) as client,
    ):
        redis.set(EventKeys("recsys").rules, '{"default": {"caps": {"brand": 0}}}')
        client.refresh()
        assert "mug" not in client.recommend(USER, 10).item_ids
        assert "default.caps.brand: 0 is not a whole number" in caplog.text
        with pytest.raises(MalformedRules, match=r"default.caps.brand: 0 .* Run `recsys rules load`"):
            Recommender(*urls, refresh_every=None, **OPTIONS)


def test_commands(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"default": {"caps": {"category": 4}}, "shelves": {"search": {"sponsored": [3]}}}')
    assert "there are no rules" in run("show").output
    assert json.loads(run("show", "--json").stdout) is None
    checked = json.loads(run("check", str(path), "--json").stdout)
    assert checked["default"] == {"least_stock": 1, "caps": {"category": 4, "subcategory": None, "brand": None}}
    assert json.loads(run("show", "--json").stdout) is None
    assert f"rules {checked['digest']} hold" in run("load", str(path)).output
    shown = run("show").output
    assert "recommend" in shown
    assert "category 4" in shown
    assert json.loads(run("show", "--json").stdout) == checked
    assert json.loads(run("clear", "--json").stdout) == {"cleared": True}
    assert json.loads(run("clear", "--json").stdout) == {"cleared": False}
    path.write_text('{"default": {"caps": {"category": 0}}}')
    assert "default.caps.category: 0" in run("check", str(path), expect=2).output
    run("load", str(path), expect=2)
    path.write_bytes(b"\xff")
    assert "not UTF-8" in run("check", str(path), expect=2).output
    run("check", str(tmp_path / "missing.json"), expect=2)
    assert json.loads(run("show", "--json").stdout) is None


def test_a_page_tells_its_rules(client: Recommender) -> None:
    page: Page = client.recommend(USER, 1, rules={"caps": {"brand": 1}})
    plain = page.to_dict()
    assert plain["rules"] == {"digest": "", "unmet": ()}
    assert plain["items"][0]["moved_by"] == ()
    assert client.recommend(USER, 1).to_dict()["rules"] is None


def test_rules_hold_on_every_shelf(recommender: Recommender) -> None:
    rules = {"exclude": {"items": ["pot"], "categories": ["gifts"], "subcategories": [], "brands": []}}
    for page in (
        recommender.cross_sell(["tea"], 10, rules=rules),
        recommender.cross_category("stranger", 10, rules=rules),
        recommender.onboard(["tea"], 10, rules=rules),
    ):
        assert len(page)
        assert not {"pot", "box"} & set(page.item_ids)


def test_a_pin_that_could_not_be_kept_moved_nothing(recommender: Recommender) -> None:
    rules = {"pins": [{"item": "pot", "position": 1}], "exclude": {"items": ["pot"]}, "caps": {"category": 1}}
    page = recommender.recommend("stranger", 4, rules=rules)
    assert page.rules is not None
    assert page.rules.unmet == ("pins: pot may not be shown here",)
    assert "pot" not in page.item_ids
    assert all("pins" not in item.moved_by for item in page)
