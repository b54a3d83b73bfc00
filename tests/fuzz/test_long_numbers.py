"""Numbers that Python will not read, and documents nested too deep, end in the error that each reader documents."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fuzz_targets
import fuzz_values
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_shop import CONTRACT

import recsys_plugin
from recsys_plugin.ads.book import CampaignBook
from recsys_plugin.digits import stored_number, whole_number
from recsys_plugin.errors import (
    ConfigurationError,
    FeatureContractError,
    InvalidInput,
    RecsysError,
    StoreUnavailable,
)
from recsys_plugin.events import Event
from recsys_plugin.events.dead_letters import corrections_of
from recsys_plugin.events.event import EventRefused
from recsys_plugin.features.bulk_reader import BulkReader
from recsys_plugin.features.columns import decode_column
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import FeatureContract
from recsys_plugin.features.requests import parsed_promotion, parsed_schema
from recsys_plugin.features.value_encoding import encode_value
from recsys_plugin.impressions.document import Impression
from recsys_plugin.inference.address import TritonAddress
from recsys_plugin.limits import MOST_COLUMN_VALUES, MOST_DOCUMENT_BYTES, MOST_ENTITIES
from recsys_plugin.observability.request_log import RequestRecord
from recsys_plugin.policy.rules.document import MalformedRules, PageRules
from recsys_plugin.privacy.budget import budget_path, read_budget
from recsys_plugin.privacy.retention import Retention
from recsys_plugin.privacy.tombstones import Tombstones, tombstones_path
from recsys_plugin.settings import Settings
from recsys_plugin.trials.trial import MalformedTrial, Trial

_PAGE = {
    "request_id": "r", "user_id": "u", "served_at": 1, "model": "recommend", "version": 1, "contract": None,
    "policy": "none", "propensity_kind": "exact", "items": ["a"], "scores": [0.5], "propensities": [1],
    "candidates": ["a"], "candidate_scores": [1],
}  # fmt: skip
_RECORD = {"at": 1, "request_id": "r", "shelf": "recommend", "why": "slow", "ms": 1, "stages": {"features": 1}}
_LETTERS = {"letters": [{"id": "1-1", "event": {"timestamp": 1}}]}
_CAMPAIGNS = fuzz_targets._CAMPAIGNS | {"settings": {"reserve_micros": 1, "traffic": [1] * 24}}
#: Name → a valid document, what reads it, and the error of one that is none.
READERS: dict[str, tuple[Any, Callable[[str], object], type[RecsysError]]] = {
    "CampaignBook": (_CAMPAIGNS, CampaignBook.from_json, InvalidInput),
    "FeatureContract": (json.loads(CONTRACT.to_json()), FeatureContract.from_json, FeatureContractError),
    "PageRules": (fuzz_targets._RULES, PageRules.from_json, MalformedRules),
    "Retention": ({"click": "1d", "pages": "2h"}, Retention.from_json, InvalidInput),
    "Trial": (fuzz_targets._TRIAL, Trial.from_json, MalformedTrial),
    "Event": (fuzz_targets._ENCODED_EVENT, lambda text: Event.decode(text.encode()), EventRefused),
    "Impression": (_PAGE, lambda text: Impression.decode(text.encode()), InvalidInput),
    "RequestRecord": (_RECORD, lambda text: RequestRecord.decode(text.encode()), InvalidInput),
    "corrections_of": (_LETTERS, corrections_of, InvalidInput),
    "parsed_schema": ({"profile:age": "INT64"}, lambda text: parsed_schema(text.encode(), "p"), StoreUnavailable),
}
_MARK = "where a number is to stand"
#: Python reads 4,300 digits of a whole number and no more.
TOO_LONG = "1" * (sys.get_int_max_str_digits() + 1)
NUMBERS = (TOO_LONG, f"-{TOO_LONG}", "[" * 100_000, '{"a":' * 100_000)
READABLE = ("9" * 4_300, "-" + "9" * 4_300, "1e400", "1e-400", "1" * 309)


def documents(valid: Any, number: str) -> list[str]:
    """A document for each place of a valid one, with the number there."""
    made = [number]

    def visit(holder: Any) -> None:
        for key in holder if isinstance(holder, dict) else range(len(holder)):
            before = holder[key]
            holder[key] = _MARK
            made.append(json.dumps(document).replace(f'"{_MARK}"', number))
            holder[key] = before
            if isinstance(before, dict | list):
                visit(before)

    document = json.loads(json.dumps(valid))
    visit(document)
    return made


@pytest.mark.parametrize("name", READERS)
def test_a_number_that_python_does_not_read_is_refused_as_documented(name: str) -> None:
    valid, read, error = READERS[name]
    read(json.dumps(valid))
    for number in NUMBERS:
        for document in documents(valid, number):
            with pytest.raises(error) as refused:
                read(document)
            assert len(str(refused.value)) < 2_000


@pytest.mark.parametrize("name", READERS)
def test_a_number_that_python_reads_is_taken_or_refused_as_documented(name: str) -> None:
    valid, read, error = READERS[name]
    for number in READABLE:
        for document in documents(valid, number):
            fuzz_values.only(partial(read, document), error)


def test_every_reader_of_documents_is_among_them() -> None:
    """Classes with a ``from_json``, found in the source."""
    root = Path(recsys_plugin.__file__).parent
    found = {
        node.name
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(part, ast.FunctionDef) and part.name == "from_json" for part in node.body)
    }
    assert found <= READERS.keys(), "add it to READERS"


@pytest.mark.parametrize("name", ["CampaignBook", "FeatureContract", "PageRules", "Retention", "Trial", "Impression"])
def test_a_document_has_a_largest_size(name: str) -> None:
    valid, read, error = READERS[name]
    with pytest.raises(error, match=str(MOST_DOCUMENT_BYTES)):
        read(json.dumps(valid) + " " * MOST_DOCUMENT_BYTES)


@pytest.mark.parametrize("number", [TOO_LONG, "[" * 100_000, "1" * 19])
def test_files_of_a_home_and_settings_refuse_them_by_name(tmp_path: Path, number: str) -> None:
    settings = Settings(home=tmp_path)
    for path, read in ((tombstones_path(settings), Tombstones.read), (budget_path(settings), read_budget)):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f'{{"forgotten": {number}, "publications": {number}')
        with pytest.raises(ConfigurationError, match="damaged"):
            read(settings)
    for variable in (number, f"1-{number}"):
        with pytest.raises(ConfigurationError, match="port"):
            Settings.from_environment({"RECSYS_METRICS_PORT": variable})
    for url in (f"redis://h:1/{number}", f"redis://h:{number}", f"redis://h:1?db={number}"):
        with pytest.raises(ConfigurationError):
            RedisAddress.parse(url)
    with pytest.raises(ConfigurationError):
        TritonAddress.parse_several(f"grpc://h:{number}")
    with pytest.raises(StoreUnavailable, match="not a version"):
        parsed_promotion(number.encode(), "p")
    with pytest.raises(StoreUnavailable, match="no number"):
        stored_number((number if number != "1" * 19 else "1_").encode(), "the revision")


@given(st.integers(0, 10**18 - 1))
def test_numbers_of_up_to_18_digits_are_read(number: int) -> None:
    assert whole_number(str(number)) == whole_number(str(number).encode()) == number
    assert stored_number(str(-number).encode(), "a counter") == -number


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1 ", "1_0", "٣", "1" * 19, "1.0", "²"])
def test_other_text_is_no_number(text: str) -> None:
    assert whole_number(text) is None


def test_one_long_list_does_not_make_a_column_of_gigabytes() -> None:
    """A column is as wide as its longest list: 10,000 entities, one of which has 200,000 numbers, were 16 GB."""
    short, long = (encode_value("DOUBLE_LIST", [0.0] * count) for count in (3, 100_000))
    stored = [short] * 2_000
    stored[1_234] = long
    with pytest.raises(StoreUnavailable, match=r"item:vector of entity number 1234: a list of 100,000 values"):
        decode_column("item:vector", "DOUBLE_LIST", stored)
    # Where all that are there are equally long, those that are missing count as well.
    many: list[bytes | None] = [None] * (MOST_COLUMN_VALUES // 100_000)
    with pytest.raises(StoreUnavailable, match=r"item:vector of entity number 7: a list of 100,000 values"):
        decode_column("item:vector", "DOUBLE_LIST", [*many[:7], long, *many[7:]])
    column = decode_column("item:vector", "DOUBLE_LIST", [short, long, None])
    assert column.values.shape == (3, 100_000)
    assert column.lengths is not None
    assert np.array_equal(column.lengths, [3, 100_000, 0])


def test_more_entities_than_allowed_are_refused_before_redis_is_asked() -> None:
    class Many(list[str]):
        def __len__(self) -> int:
            return MOST_ENTITIES + 1

    address = RedisAddress.parse("redis://127.0.0.1:1")
    reader = BulkReader(address, {"v:n": "INT64"}, project="p", join_key="item_id", timeout=1)
    with reader, pytest.raises(InvalidInput, match="10,000,001, at most 10,000,000"):
        reader.read(Many(), timeout=1)
