"""Pages that say why, on real servers: what they say, that it adds up, and that others pay nothing for it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_own_acts
from click.testing import CliRunner, Result
from tiny_shop import BASE, ITEM_IDS, NOW, TASTE, TinyShop

from recsys_plugin import AsyncRecommender, InferenceUnavailable, InvalidInput, Page
from recsys_plugin.bench import explaining
from recsys_plugin.bench.shop import MeasuredRecommender
from recsys_plugin.cli._group import recsys
from recsys_plugin.client.context import RequestContext
from recsys_plugin.client.explaining import explained
from recsys_plugin.client.release import Release
from recsys_plugin.client.results import RankedItems, ScoredItem
from recsys_plugin.features.plan import FeatureTensors, ReadPlan
from recsys_plugin.inference.calls import Infer
from recsys_plugin.inference.explanation import FEATURE_GROUPS
from recsys_plugin.inference.new_items import ItemFacts


class CountingRecommender(MeasuredRecommender):
    """The blocking client, with the name of every model that it asked Triton for.

    Triton counts a request a moment after it answered, so that its own statistics lag behind.
    """

    asked: list[str]

    def __init__(self, *urls: str, **options: Any) -> None:
        self.asked = []
        super().__init__(*urls, **options)

    def _perform(self, call: object, timeout: float) -> object:
        if isinstance(call, Infer):
            self.asked.append(call.model)
        return super()._perform(call, timeout)


@pytest.fixture(scope="module")
def client(tiny: TinyShop) -> Iterator[CountingRecommender]:
    with CountingRecommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW) as made:
        yield made


def check(page: Page) -> None:
    """What the tiny shop's explanations say: twice the item's base, and twice what the user's taste adds."""
    assert page.items
    for item in page:
        found = item.explanation
        assert found is not None
        assert found.base is not None
        assert found.logit is not None
        assert found.logit == pytest.approx(item.score)
        assert found.base + sum(each.value for each in found.contributions) == pytest.approx(found.logit, abs=1e-5)
        sizes = [abs(each.value) for each in found.contributions]
        assert sizes == sorted(sizes, reverse=True)
        added = {each.group: each.value for each in found.contributions}
        assert added["kind"] == pytest.approx(2 * BASE[ITEM_IDS.index(item.item_id)])
        assert all(each.words for each in found.contributions)


def test_pages_say_why(client: CountingRecommender) -> None:
    page = client.recommend("mug-lover", 6, explain=True)
    check(page)
    mug = next(item for item in page if item.item_id == "mug")
    assert mug.explanation is not None
    added = {each.group: each.value for each in mug.explanation.contributions}
    assert added["customer"] == pytest.approx(2 * TASTE[ITEM_IDS.index("mug")])
    assert mug.explanation.reason is not None
    assert (mug.explanation.reason.kind, mug.explanation.reason.rank) == ("popular", 4)
    assert mug.explanation.reason.text == "popular in kitchen"
    jar = next(item for item in page if item.item_id == "jar")
    assert jar.explanation is not None
    assert jar.explanation.reason is None  # of no category
    check(client.rank("mug-lover", ["pot", "tea", "nothing of the kind"], explain=True))
    plain = json.loads(json.dumps(page.to_dict(), allow_nan=False))
    assert plain["items"][0]["explanation"]["contributions"][0]["words"]


def test_several_users_and_people_nobody_knows(client: CountingRecommender) -> None:
    pages = client.recommend_many(["mug-lover", "nobody has this id"], 4, explain=True)
    for page in pages:
        check(page)
    for user in ("☕", "'; DROP TABLE users", 7):
        check(client.recommend(user, 2, explain=True))
    with pytest.raises(InvalidInput, match="control character"):
        client.recommend("\x00\x1f", 2, explain=True)
    check(client.recommend("mug-lover", 100, explain=True))


def test_nothing_is_paid_unasked(client: CountingRecommender) -> None:
    client.asked.clear()
    page = client.recommend("mug-lover", 5)
    ranked = client.rank("mug-lover", ["mug"])
    assert client.asked == ["recommend", "rank"]
    assert all(item.explanation is None for item in (*page, *ranked))
    asked = client.recommend("mug-lover", 5, explain=True)
    assert client.asked.count("explain") == 1
    assert [replace(item, explanation=None) for item in asked] == list(page)


def test_a_search_says_why(client: CountingRecommender) -> None:
    client.asked.clear()
    page = client.search("mug-lover", "tea", 4, explain=True)
    assert client.asked.count("explain") == 1
    for item in page:
        assert item.explanation is not None
        assert item.explanation.logit is not None
        added = sum(each.value for each in item.explanation.contributions)
        assert item.explanation.logit == pytest.approx(added + (item.explanation.base or 0.0), abs=1e-5)
    plain = client.search("mug-lover", "tea", 4)
    assert [replace(item, explanation=None) for item in page] == list(plain)
    nobody = client.search(None, "tea", 2, explain=True)
    assert all(item.explanation is not None for item in nobody)


def test_what_rules_moved_is_told_beside_the_explanation(client: CountingRecommender) -> None:
    page = client.recommend("mug-lover", 4, rules={"caps": {"category": 1}}, explain=True)
    assert any(item.moved_by for item in page)
    assert all(item.explanation is not None and item.original_position for item in page)


def test_an_empty_page_asks_nothing(client: CountingRecommender) -> None:
    client.asked.clear()
    assert not client.recommend("mug-lover", 0, explain=True).items
    assert not client.rank("mug-lover", [], explain=True).items
    assert client.rank("mug-lover", ["gone"], explain=True).unknown_items == ("gone",)
    assert client.asked == []


def test_awaited_pages_say_the_same(client: CountingRecommender, tiny: TinyShop) -> None:
    async def ask() -> tuple[Page, Page]:
        async with AsyncRecommender(tiny.redis_url, tiny.triton_url, timeout=10, clock=lambda: NOW) as other:
            found = await other.recommend("mug-lover", 4, explain=True)
            return found, await other.rank("mug-lover", ["mug", "tea"], explain=True)

    page, ranked = asyncio.run(ask())
    assert page.items == client.recommend("mug-lover", 4, explain=True).items
    assert ranked.items == client.rank("mug-lover", ["mug", "tea"], explain=True).items


def drive(
    release: Release, tensors: FeatureTensors, item_ids: list[str], figures: dict[str, float], rows: list[list[int]]
) -> tuple[list[ScoredItem], list[Infer]]:
    """Explain items of a page, the model answering each of them with the same figures and rows of its own."""
    context = RequestContext(release, "request", test_own_acts.MAY, lambda: 0.0)

    def item(place: int) -> ScoredItem:
        return ScoredItem(item_ids[place], 0.5, place + 1, "title", "kitchen", None)

    flow = explained(context, tensors, 0, RankedItems(len(item_ids), lambda: item_ids, item))
    columns = release.models["explain"].value_columns
    values = np.array([figures.get(name, 0.0) for name in columns], np.float32)
    made: list[Infer] = []
    answer: Any = None
    try:
        while True:
            made.append(flow.send(answer))
            asked = [*made[-1].inputs["candidate_rows"][0], *made[-1].inputs.get("new_items", [[]])[0]]
            start = sum(call.inputs["candidate_rows"].shape[1] for call in made[:-1])
            answer = {
                "values": np.tile(values, (1, len(asked), 1)),
                "reason_rows": np.array([[rows[(start + place) % len(rows)] for place in range(len(asked))]]),
            }
    except StopIteration as end:
        return list(end.value), made


@pytest.fixture
def told(client: CountingRecommender) -> Release:
    """The tiny shop's release with a contract that tells of the user's acts."""
    model = replace(client.release.models["explain"], plan=ReadPlan(test_own_acts.CONTRACT))
    return replace(client.release, models={**client.release.models, "explain": model})


def reason_of(item: ScoredItem) -> tuple[str, str, str | None]:
    assert item.explanation is not None
    assert item.explanation.reason is not None
    reason = item.explanation.reason
    return reason.kind, reason.text, reason.item_id


def test_the_reason_is_what_counted_most(told: Release) -> None:
    may, pot, cup = test_own_acts.MAY, ITEM_IDS.index("pot"), ITEM_IDS.index("cup")
    tensors = test_own_acts.packed([cup], [(pot, 4, may), (pot, 4, may - 86_400), (3, 2, may)])
    figures = {"companion_weight": 0.2, "nearest_cosine": 0.9, "category_rank": 2.0}

    def said(group: str, item_id: str, nearest: int, companion: int) -> tuple[str, str, str | None]:
        (item,), _ = drive(told, tensors, [item_id], {**figures, group: 1.0}, [[nearest, companion]])
        return reason_of(item)

    assert said("own_history", "pot", -1, -1) == ("bought_often", "you bought it 2 times lately, last on 3 May", None)
    assert said("own_history", "cup", -1, -1) == ("bought_before", "you bought it before", None)
    assert said("own_history", "mug", -1, -1) == ("looked_at", "you looked at it on 3 May", None)
    assert said("bought_together", "tea", pot, pot) == ("goes_with_bought", "goes with Tea pot, bought 3 May", "pot")
    assert said("likeness", "tea", 3, pot) == ("like_looked_at", "like Mug, which you looked at on 3 May", "mug")
    assert said("popularity", "tea", pot, pot) == ("popular", "popular in kitchen", None)
    # What does not hold is not said, however much its group counts.
    assert said("likeness", "tea", -1, -1) == ("popular", "popular in kitchen", None)
    (item,), _ = drive(told, tensors, ["tea"], {"nearest_cosine": 0.2, "category_rank": 99.0}, [[pot, -1]])
    assert item.explanation is not None
    assert item.explanation.reason is None


def test_long_pages_are_explained_in_parts(told: Release) -> None:
    tensors = test_own_acts.packed([], [])
    item_ids = [ITEM_IDS[number % 6] for number in range(120)]
    items, made = drive(told, tensors, item_ids, {"kind": 0.5, "logit": 0.5}, [[-1, -1]])
    assert [call.inputs["candidate_rows"].shape[1] for call in made] == [50, 50, 20]
    assert all(item.explanation is not None and math.isclose(item.explanation.logit or 0.0, 0.5) for item in items)


def test_an_item_newer_than_the_catalogue_has_no_figures(told: Release) -> None:
    said: dict[str, Any] = {**dict.fromkeys(ItemFacts.__dataclass_fields__, ""), "item_id": "newest", "price": 1.0}
    fact = ItemFacts(**said)
    new = told.new_items.with_items([fact], np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    (item,), made = drive(replace(told, new_items=new), test_own_acts.packed([], []), ["newest"], {}, [[-1, -1]])
    assert not made
    assert item.explanation is not None
    assert item.explanation.contributions == ()
    assert (item.explanation.base, item.explanation.logit, item.explanation.reason) == (None, None, None)


def test_a_newer_item_is_explained_by_a_model_that_takes_it(told: Release) -> None:
    said: dict[str, Any] = {**dict.fromkeys(ItemFacts.__dataclass_fields__, ""), "price": 1.0}
    facts = [ItemFacts(**{**said, "item_id": name}) for name in ("newest", "newer")]
    packed = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    new = told.new_items.with_items(facts, packed, packed)
    models = {**told.models, "explain": replace(told.models["explain"], item_width=2)}
    release, user = replace(told, new_items=new, models=models), test_own_acts.packed([], [])
    for item_ids, rows, items in (
        (["newer", "mug", "newest"], [[3]], [[[3, 4], [1, 2]]]),
        (["mug"], [[3]], [[[0, 0]]]),
        (["newest"], [[-1]], [[[1, 2]]]),
    ):
        found, (call,) = drive(release, user, item_ids, {"kind": 0.5, "logit": 0.5}, [[-1, -1]])
        np.testing.assert_array_equal(call.inputs["candidate_rows"], rows)
        np.testing.assert_array_equal(call.inputs["new_items"], items)
        assert [item.item_id for item in found] == item_ids
        assert all(item.explanation is not None and item.explanation.logit == 0.5 for item in found)


def test_a_version_without_the_model_says_so(told: Release) -> None:
    models = {name: model for name, model in told.models.items() if name != "explain"}
    context = RequestContext(replace(told, models=models), "request", NOW, lambda: 0.0)
    with pytest.raises(InferenceUnavailable, match="exported before there was one"):
        next(explained(context, test_own_acts.packed([], []), 0, RankedItems()))
    # A request that falls back has its page, without explanations, and says why.
    context.strict = False
    with pytest.raises(StopIteration) as end:
        next(explained(context, test_own_acts.packed([], []), 0, RankedItems()))
    assert end.value.value == RankedItems()
    assert context.fallback_of(None).level == "full"
    assert "without explanations: version" in context.fallback_of(None).reason


@pytest.fixture
def command(tiny: TinyShop, tmp_path: Path) -> Callable[..., Result]:
    """Runs ``recsys`` on the tiny shop."""
    environment = {
        "RECSYS_HOME": str(tmp_path),
        "RECSYS_REDIS_URL": tiny.redis_url,
        "RECSYS_TRITON_URL": tiny.triton_url,
        "RECSYS_AS_OF": datetime.fromtimestamp(NOW, UTC).isoformat(),
    }
    # A benchmark says which server it measured, which it asks it for: that is not for a shop's backend.
    benchmark = environment | {"RECSYS_REDIS_URL": tiny.admin_url}
    return lambda *arguments: CliRunner().invoke(
        recsys, list(arguments), env=benchmark if arguments[0] == "bench" else environment
    )


def test_the_command(command: Callable[..., Result], tmp_path: Path) -> None:
    def run(*arguments: str) -> Result:
        return command("explain", *arguments, "--timeout", "10")

    picture = tmp_path / "why.png"
    shown = run("mug-lover", "mug", "--plot", str(picture))
    assert shown.exit_code == 0, shown.output
    for words in ("Mug for user mug-lover", "popular in kitchen", "added to the log-odds", "█", "score 2.6"):
        assert words in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(run("nobody", "jar", "--json").stdout)
    assert document["explanation"]["reason"] is None
    assert len(document["explanation"]["contributions"]) == len(FEATURE_GROUPS)
    assert "who is not known" in run("nobody", "jar").stdout
    for wrong, message in ((("gone",), "not in the catalogue"), (("mug", "--plot", "why.txt"), "must end with")):
        refused = run("mug-lover", *wrong)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_the_benchmark(command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".recsys" / "tables").mkdir(parents=True)
    users = pa.table({"user_id": ["mug-lover", "somebody"]})
    pq.write_table(users, tmp_path / ".recsys" / "tables" / "users.parquet")
    few = ("bench", "explain", "--calls", "3", "--pages", "12", "--k", "3", "--json", "-")
    done = command(*few)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)["figures"]
    assert figures["recommend.plain.calls"] == figures["recommend.explained.calls"] == 3
    assert figures["added_up.pages"] == 12
    assert figures["added_up.items"] == 36
    assert figures["added_up.largest_difference"] < 1e-5
    monkeypatch.setattr(explaining, "ADDS_UP", -1.0)
    refused = command(*few)
    assert refused.exit_code == 3
    assert "add up to" in refused.stderr
