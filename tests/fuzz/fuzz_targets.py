"""What is fuzzed without a server: everything that reads bytes, texts or documents from somewhere else."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_values import ANYTHING, JSON, KEY, MOMENTS, PASSWORD, check_secret, mutated_json, only, urls
from hypothesis import strategies as st
from tiny_shop import CONTRACT

from recsys_plugin import AsyncRecommender, ShelfRules
from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.client.snapshot import MalformedSnapshot, Snapshot, read_snapshot
from recsys_plugin.errors import ConfigurationError, FeatureContractError, InvalidInput, RecsysError, StoreUnavailable
from recsys_plugin.events.event import Event, EventRefused
from recsys_plugin.events.spool import Spool
from recsys_plugin.features.codec import MalformedValueError, decode_timestamp, decode_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.identifiers import checked_id
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.inference.tensors import MalformedTensorError, decode_tensor
from recsys_plugin.policy.exploration_settings import parse_exploration
from recsys_plugin.policy.rules import PageRules
from recsys_plugin.policy.rules.document import MalformedRules
from recsys_plugin.pseudonyms import Pseudonyms
from recsys_plugin.settings import Settings
from recsys_plugin.trials.trial import MalformedTrial, Trial

__all__ = ["PURE_TARGETS", "FuzzTarget"]


@dataclass(frozen=True)
class FuzzTarget:
    """One entry point.

    Attributes:
        name: of it. values: what it is given. check: gives it, and fails if it does what it must not.
        share: how many of 100 cases are its own, about.
    """

    name: str
    values: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    share: int


def _value(data: bytes) -> None:
    found = only(lambda: decode_value(data), MalformedValueError)
    assert found is None or (isinstance(found, tuple) and isinstance(found[0], str))


def _timestamp(data: bytes) -> None:
    found = only(lambda: decode_timestamp(data), MalformedValueError)
    assert found is None or (isinstance(found, float) and math.isfinite(found))


def _tensor(given: tuple[str, list[int], bytes]) -> None:
    datatype, shape, data = given
    found = only(lambda: decode_tensor(datatype, shape, data), MalformedTensorError)
    assert found is None or (isinstance(found, np.ndarray) and list(found.shape) == shape)


def _contract(text: str | bytes) -> None:
    # What Triton says is text.
    found = only(lambda: FeatureContract.from_json(_text(text)), FeatureContractError)
    assert found is None or FeatureContract.from_json(found.to_json()) == found


def _rules(text: str | bytes) -> None:
    found = only(lambda: PageRules.from_json(text), MalformedRules)
    assert found is None or isinstance(found.of("recommend"), ShelfRules)


def _campaigns(text: str | bytes) -> None:
    found = only(lambda: CampaignBook.from_json(text), InvalidInput)
    assert found is None or CampaignBook.from_json(found.to_json()) == found


def _trial(text: str | bytes) -> None:
    found = only(lambda: Trial.from_json(text), MalformedTrial)
    assert found is None or Trial.from_json(found.to_json()) == found


def _event(values: dict[str, Any]) -> None:
    found = only(lambda: Event(**values), EventRefused)
    assert found is None or isinstance(found.user_id, str)
    if found is not None and found.timestamp is not None and found.event_id is not None:
        encoded = only(found.encode, EventRefused)
        assert encoded is None or Event.decode(encoded) == found


def _encoded_event(data: str | bytes) -> None:
    found = only(lambda: Event.decode(_bytes(data)), EventRefused)
    assert found is None or Event.decode(found.encode()) == found


def _redis_url(url: str) -> None:
    found = only(lambda: RedisAddress.parse(url), ConfigurationError)
    if found is not None:
        check_secret(repr(found) + str(found))


def _triton_url(url: str) -> None:
    found = only(lambda: TritonAddress.parse_several(url), ConfigurationError)
    assert found is None or all(str(each).startswith("grpc") for each in found)


def _settings(environ: dict[str, str]) -> None:
    found = only(lambda: Settings.from_environment(environ), ConfigurationError)
    if found is not None:
        check_secret(repr(found))


def _client(arguments: dict[str, Any]) -> None:
    # It connects at its first call, which is never made.
    found = only(lambda: AsyncRecommender(**arguments), ConfigurationError, InvalidInput)
    if found is not None:
        check_secret(repr(found) + repr(vars(found)["_redis_address"]) + repr(vars(found)["_pseudonyms"]))


def _environment(environ: dict[str, str]) -> None:
    only(lambda: AsyncRecommender.from_environment(environ), ConfigurationError, InvalidInput, StoreUnavailable)


def _exploration(text: str) -> None:
    only(lambda: parse_exploration(text), ConfigurationError)


def _pseudonym(given: tuple[str, Any]) -> None:
    key, user = given
    made = only(lambda: Pseudonyms(key), ConfigurationError)
    user_id = only(lambda: checked_id(user, "user_id"), InvalidInput)
    if made is not None and user_id is not None:
        assert len(made.of(user_id)) == 32
        assert user_id == "" or made.of(user_id) != user_id


def _shelf_rules(document: Any) -> None:
    found = only(lambda: ShelfRules().overridden(document, "rules"), InvalidInput)
    assert found is None or isinstance(found, ShelfRules)


def _spool(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "00000000000000000001.jsonl").write_bytes(data)
        spool = only(lambda: Spool(folder, now=1), RecsysError)
        if spool is not None:
            found = only(spool.read, RecsysError)
            assert found is None or all(len(entry) for entry in found.entries)
            spool.close()


def _snapshot(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        # Changed files are told by their digest; these have the right one, so that what comes after it is read.
        file.write(b"recsys-plugin snapshot 1\n" + hashlib.sha256(data).digest() + data)
        file.flush()
        found = only(lambda: read_snapshot(Path(file.name), "recsys"), MalformedSnapshot)
        assert found is None or isinstance(found, Snapshot)


def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode(errors="replace")


def _bytes(data: str | bytes) -> bytes:
    return data.encode(errors="surrogatepass") if isinstance(data, str) else data


#: Bytes as protobuf writes them: tags, lengths and what they announce, right and wrong.
_PROTOBUF = st.binary(max_size=80) | st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 12), st.binary(max_size=12)).map(
        lambda part: bytes([part[0], part[1]]) + part[2]
    ),
    max_size=5,
).map(b"".join)

_RULES = {
    "default": {
        "caps": {"category": 4, "brand": 2},
        "already": {"bought_days": 14, "seen_days": 1},
        "price": {"lowest": 1, "highest": 500, "keep_unknown": True},
        "exclude": {"items": ["a"], "categories": ["b"], "subcategories": [], "brands": []},
        "freshness": {"boost": 0.2, "half_life_days": 30},
        "diversity": {"method": "mmr", "strength": 0.2, "pool": 100},
    },
    "shelves": {
        "recommend": {"pins": [{"item": "i", "position": 1}], "sponsored": [4, 9]},
        "search": {"already": None, "objectives": {"click": 0.1, "cart": 0.3, "purchase": 1, "price_power": 0.3}},
    },
}
_CAMPAIGNS = {
    "format": 1,
    "settings": {"reserve_micros": 10, "traffic": [1] * 24, "pace": True, "explore": False},
    "campaigns": [
        {"campaign_id": "c", "items": ["a", "b"], "bid_micros": 1000, "budget_per_day_micros": 10**7},
        {
            "campaign_id": "d",
            "items": ["a"],
            "bid_micros": 1,
            "budget_per_day_micros": 5,
            "budget_micros": 50,
            "start": "2026-01-01T00:00:00Z",
            "end": "2026-02-01",
            "most_per_user_per_day": 3,
            "paused": True,
            "targeting": {"context": {"page": ["home"]}, "user": [{"feature": "v:f", "at_least": 1}]},
        },
    ],
}
_TRIAL = {
    "format": 1,
    "trial_id": "t",
    "salt": "s",
    "control": 1,
    "candidate": 2,
    "mode": "canary",
    "phases": [{"since": 1.0, "share": 0.1}],
    "thresholds": {"error_rate": 0.01, "latency_ratio": 2.0, "psi": 0.25, "alpha": 0.01},
    "drift_bins": {"recommend": {"edges": [1, 2], "set_aside": [3, 4, 5]}},
    "status": "running",
    "ended_at": None,
    "reason": None,
    "revision": 1,
}
_ENCODED_EVENT = {
    "user_id": "u",
    "item_id": "i",
    "event_type": "cart",
    "timestamp": 1_700_000_000_000_000,
    "event_id": "e",
    "quantity": 1.0,
    "price": 2.5,
    "basket_id": "b",
    "query": "tea",
    "request_id": "r",
}
_SPOOLED = st.binary(max_size=200) | st.lists(
    st.binary(max_size=40)
    | st.sampled_from(
        [
            b'{"sent":          0}\n',
            b'{"sent": 999999999}\n',
            b'{"recorded_at":1,"crc32":2,"stream":"s","event":{}}\n',
            b'{"recorded_at":1,"crc32":',
        ]
    ),
    max_size=6,
).map(b"".join)
_HEADER = {
    "project": "recsys",
    "version": 1,
    "items": 2,
    "labels": {"categories": ["", "a"], "subcategories": [""], "brands": ["b"]},
    "segments": [["country", "DE"]],
    "rules": None,
    "rules_digest": "",
    "columns": [["item_ids_ends", "int64", 2], ["prices", "float32", 2], ["shares", "float32", 2]],
}
_SNAPSHOT = st.binary(max_size=60) | st.tuples(mutated_json(_HEADER), st.binary(max_size=64)).map(
    lambda parts: len(_bytes(parts[0])).to_bytes(8, "little") + _bytes(parts[0]) + parts[1]
)
_VARIABLES = (
    "RECSYS_HOME", "RECSYS_AS_OF", "RECSYS_SPOOL", "RECSYS_IMPRESSIONS", "RECSYS_EXPLORATION", "RECSYS_SNAPSHOT",
    "RECSYS_DATA", "RECSYS_TRITON_PYTHON", "RECSYS_OPTED_OUT", "RECSYS_REDIS_URL_FILE",
)  # fmt: skip
_NO_NUL = st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
#: Secrets stand only where secrets belong.
_OPEN = _NO_NUL | st.sampled_from(["0.5", "1", "epsilon:0.1", "2026-01-01", "/nowhere", "~nobody-at-all/x"])
_SET = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(_VARIABLES, _OPEN),
        "RECSYS_REDIS_URL": _NO_NUL | urls("redis", "rediss", "unix").filter(lambda url: "\x00" not in url),
        "RECSYS_TRITON_URL": _NO_NUL | urls("grpc", "grpcs").filter(lambda url: "\x00" not in url),
        "RECSYS_PSEUDONYM_KEY": st.just(KEY) | _NO_NUL,
        "RECSYS_MODEL_KEY": st.just(KEY) | _NO_NUL,
    },
)
_EVENT = st.fixed_dictionaries(
    {
        "user_id": st.just("u") | ANYTHING,
        "item_id": st.just("i") | ANYTHING,
        "event_type": st.sampled_from(["cart", "click", "purchase"]) | ANYTHING,
    },
    optional={
        "timestamp": MOMENTS | ANYTHING,
        "event_id": st.just("e") | ANYTHING,
        "quantity": st.just(2) | ANYTHING,
        "price": st.just(1.5) | ANYTHING,
        "basket_id": ANYTHING,
        "query": st.text(max_size=20) | ANYTHING,
        "request_id": ANYTHING,
    },
)
_ARGUMENTS = st.fixed_dictionaries(
    {
        "redis_url": st.just(f"redis://u:{PASSWORD}@localhost:1/0") | urls("redis", "rediss", "unix", "redis-cluster"),
        "triton_url": st.just("grpc://localhost:1") | urls("grpc", "grpcs"),
    },
    optional={
        "timeout": st.just(0.1) | ANYTHING,
        "refresh_every": st.none() | ANYTHING,
        "query_cache": st.just(5) | ANYTHING,
        "strict": st.booleans() | ANYTHING,
        "pseudonym_key": st.just(KEY) | st.text(max_size=30),
    },
)
_TENSOR = st.tuples(
    st.sampled_from(["FP32", "FP64", "INT32", "INT64", "BOOL", "BYTES", "FP16", ""]) | st.text(max_size=5),
    st.lists(st.integers(0, 4) | st.sampled_from([-1, 2**31, 2**40]), max_size=3),
    st.binary(max_size=64),
)

PURE_TARGETS: tuple[FuzzTarget, ...] = (
    FuzzTarget("codec.decode_value", _PROTOBUF, _value, 12),
    FuzzTarget("codec.decode_timestamp", _PROTOBUF, _timestamp, 5),
    FuzzTarget("tensors.decode_tensor", _TENSOR, _tensor, 6),
    FuzzTarget("FeatureContract.from_json", mutated_json(json.loads(CONTRACT.to_json())), _contract, 6),
    FuzzTarget("PageRules.from_json", mutated_json(_RULES), _rules, 7),
    FuzzTarget("ShelfRules.overridden", JSON | ANYTHING, _shelf_rules, 4),
    FuzzTarget("CampaignBook.from_json", mutated_json(_CAMPAIGNS), _campaigns, 6),
    FuzzTarget("Trial.from_json", mutated_json(_TRIAL), _trial, 6),
    FuzzTarget("Event", _EVENT, _event, 8),
    FuzzTarget("Event.decode", mutated_json(_ENCODED_EVENT), _encoded_event, 6),
    FuzzTarget("RedisAddress.parse", urls("redis", "rediss", "redis-cluster", "redis-sentinel", "unix"), _redis_url, 6),
    FuzzTarget("TritonAddress.parse_several", urls("grpc", "grpcs"), _triton_url, 4),
    FuzzTarget("Settings.from_environment", _SET, _settings, 3),
    FuzzTarget("AsyncRecommender", _ARGUMENTS, _client, 4),
    FuzzTarget("AsyncRecommender.from_environment", _SET, _environment, 2),
    FuzzTarget("parse_exploration", st.text(max_size=20) | st.sampled_from(["epsilon:nan", "gumbel:inf", "gumbel:-0",
        "thompson:/", "thompson:.", "epsilon:1e-400", "thompson:\x00"]), _exploration, 2),
    FuzzTarget("Pseudonyms", st.tuples(st.text(max_size=40) | st.just(KEY), ANYTHING), _pseudonym, 2),
    FuzzTarget("Spool", _SPOOLED, _spool, 2),
    FuzzTarget("read_snapshot", _SNAPSHOT, _snapshot, 2),
)  # fmt: skip
