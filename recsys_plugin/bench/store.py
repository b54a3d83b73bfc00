"""``recsys bench store``: features ready as tensors, ours against Feast's SDK, in turn on the same Redis."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import numpy as np

from recsys_plugin.bench.equality import require_equal
from recsys_plugin.bench.report import Report, begin_report
from recsys_plugin.bench.shop import CALL_TIMEOUT, ServedShop, Tell, open_shop
from recsys_plugin.bench.timing import Subject, interleave, p50_ratio
from recsys_plugin.bench.usual_way import UsualWay, open_usual_way
from recsys_plugin.features.bulk_reader import BulkReader
from recsys_plugin.features.columns import Column
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.plan import FeatureTensors
from recsys_plugin.inference.tensors import Array
from recsys_plugin.settings import Settings

__all__ = ["measure_store"]

_WARM_UP = 20
#: The SDK is called once for so many reads of ours: it takes most of the time, and its median settles early.
_USUAL_EVERY = 10


def measure_store(
    settings: Settings, *, now: float, users: int, calls: int, items: int, seed: int, freeze: bool, tell: Tell
) -> Report:
    """Check that both ways make the same user tensors, then measure them in turn.

    Args:
        settings: names the home, whose servers run.
        now: the time of every request, unix seconds.
        users: how many users to read, in turn.
        calls: how many times we read a user; the SDK a tenth of it.
        items: how many items' features the SDK reads with the user's; no more than the catalogue has.
        seed: fixes users, items and the order of calls.
        freeze: see :func:`~recsys_plugin.bench.timing.interleave`.
        tell: told what is under way, how much is done, and of how much.

    Raises:
        CheckFailed: if the tensors differ.
        ConfigurationError: if the home has no data.
        ServiceUnavailable: if a server does not answer.
    """
    with ExitStack() as stack:
        shop = stack.enter_context(open_shop(settings, now=now, users=users, seed=seed))
        report = begin_report("Reading features", shop.redis_url, shop.triton_url, "feast")
        catalogue = shop.release.catalogue
        count = min(items, len(catalogue))
        drawn = np.random.default_rng(seed).choice(len(catalogue), size=count, replace=False)
        item_ids = [catalogue.item_ids[row] for row in drawn]
        tell("opening Feast's store", 0, 0)
        usual = stack.enter_context(open_usual_way(shop))
        direct = stack.enter_context(_item_reader(shop, usual))
        wanted = usual.pack_items(usual.item_features(item_ids))
        require_equal("the items, ours and the usual way", _pack_items(direct, usual, item_ids), wanted)
        replies = {}
        known = 0
        for number, user_id in enumerate(shop.users, start=1):
            replies[user_id] = shop.read(user_id)
            tensors, found = shop.decode(user_id, replies[user_id])
            known += found.known
            theirs = usual.pack_user(usual.user_features(user_id))
            require_equal(f"user {user_id!r}, ours and the usual way", _named(tensors), _as_bytes(theirs))
            tell("checking that both ways make the same tensors", number, len(shop.users))

        def user(number: int) -> str:
            return shop.users[number % len(shop.users)]

        seldom = max(1, calls // _USUAL_EVERY)
        samples = interleave(
            {
                "user.ours": Subject(lambda number: _ours(shop, user(number)), calls, lambda stages: stages),
                "user.ours_decode_only": Subject(
                    lambda number: shop.decode(user(number), replies[user(number)]), calls
                ),
                "user.usual": Subject(lambda number: usual.pack_user(usual.user_features(user(number))), calls),
                "user_and_items.direct": Subject(
                    lambda number: _direct(shop, direct, usual, user(number), item_ids), calls, lambda stages: stages
                ),
                "user_and_items.usual": Subject(
                    lambda number: _usual(usual, user(number), item_ids), seldom, lambda stages: stages
                ),
            },
            warm_up=_WARM_UP,
            seed=seed,
            freeze=freeze,
            progress=lambda done, total: tell("measuring in turn", done, total),
        )
    for name, measured in samples.items():
        report.add_samples(name, measured)
    ours = samples["user.ours"]
    report.add_ratio("user.usual_to_ours", p50_ratio(samples["user.usual"], ours, seed=seed))
    both = samples["user_and_items.usual"]
    report.add_ratio("user_and_items.usual_to_ours", p50_ratio(both, ours, seed=seed))
    report.add_ratio("user_and_items.usual_to_direct", p50_ratio(both, samples["user_and_items.direct"], seed=seed))
    report.finish(
        f"seed {seed}; {len(shop.users)} users drawn at random, {known} of them known to the feature store; "
        f"{count} items",
        "before timing, both ways made the same user tensors for every user and the same item tensors, bit for bit",
        "user.ours: one HMGET over all views of the model's contract, decoded into its tensors",
        "user_and_items.usual_to_ours compares with user.ours as well: the items' features are resident in the served "
        "models, so for us they count as served and nothing is read",
        "user_and_items.direct: the same features of user and items, all read from Redis: one HMGET per entity in one "
        "buffer, decoded column by column, and packed",
        "usual: get_online_features, to_dict (for the user with event times, since the SDK returns expired values like "
        "others), packed with numpy; items: catalogue columns, statistics and the item vector",
        frozen=freeze,
    )
    return report


def _ours(shop: ServedShop, user_id: str) -> Mapping[str, float]:
    began = perf_counter()
    replies = shop.read(user_id)
    read = perf_counter()
    shop.decode(user_id, replies)
    return {"read": (read - began) * 1000, "decode": (perf_counter() - read) * 1000}


def _usual(usual: UsualWay, user_id: str, item_ids: list[str]) -> Mapping[str, float]:
    began = perf_counter()
    user = usual.user_features(user_id)
    have_user = perf_counter()
    items = usual.item_features(item_ids)
    have_items = perf_counter()
    usual.pack_user(user)
    usual.pack_items(items)
    stages = np.diff([began, have_user, have_items, perf_counter()]) * 1000
    return dict(zip(("user_features", "item_features", "pack"), stages.tolist(), strict=True))


def _item_reader(shop: ServedShop, usual: UsualWay) -> BulkReader:
    """A reader of the very features that the SDK is asked for."""
    contract = shop.plan.contract
    address = RedisAddress.parse(shop.redis_url)
    return BulkReader(address, usual.item_types, project=contract.project, join_key="item_id", timeout=CALL_TIMEOUT)


def _direct(
    shop: ServedShop, reader: BulkReader, usual: UsualWay, user_id: str, item_ids: list[str]
) -> Mapping[str, float]:
    began = perf_counter()
    shop.decode(user_id, shop.read(user_id))
    have_user = perf_counter()
    columns = reader.read(item_ids, timeout=CALL_TIMEOUT)
    have_items = perf_counter()
    _packed_columns(columns, usual)
    stages = np.diff([began, have_user, have_items, perf_counter()]) * 1000
    return dict(zip(("user_features", "item_features", "pack"), stages.tolist(), strict=True))


def _pack_items(reader: BulkReader, usual: UsualWay, item_ids: list[str]) -> dict[str, Array]:
    return _packed_columns(reader.read(item_ids, timeout=CALL_TIMEOUT), usual)


def _packed_columns(columns: Mapping[str, Column], usual: UsualWay) -> dict[str, Array]:
    """The tensors that :meth:`UsualWay.pack_items` makes; a column has 0 or "" where a value is missing."""
    numbers = [columns[reference].values for reference in (*usual.item_numbers, *usual.item_times)]
    floats = np.array(numbers, dtype=np.float32).T
    texts = [columns[reference].values for reference in usual.item_texts]
    return {
        "item_float": np.hstack([floats, columns[usual.item_vector].values]),
        "item_string": np.array(texts, dtype=object).T,
    }


def _named(tensors: FeatureTensors) -> dict[str, Array]:
    return {
        "user_float": tensors.user_float,
        "user_int": tensors.user_int,
        "user_string": tensors.user_string,
    }


def _as_bytes(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The same with texts as bytes, which is what Triton is sent in either case."""
    encoded: dict[str, Any] = dict(tensors)
    texts = [[text.encode() if isinstance(text, str) else text for text in line] for line in tensors["user_string"]]
    encoded["user_string"] = np.array(texts, dtype=object)
    return encoded
