"""Packing a Feast frame as the contract says, against a slow reference written from the contract's words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import FeatureContractError
from recsys_plugin.features.contract import REQUEST_TIMESTAMP, Encoding, FeatureContract, FeatureSpec
from recsys_plugin.training.inputs import Vocabulary
from recsys_plugin.training.packing import UserTensors, first_users, pack_frame

ITEMS: pd.Index[str] = pd.Index(["x", "y", "ü"], dtype=object)
CONTRACT = FeatureContract(
    (
        FeatureSpec("v:spend", "FLOAT", 0.5),
        FeatureSpec("v:count", "INT64", -7),
        FeatureSpec("v:name", "STRING", "nobody"),
        FeatureSpec("v:since", "UNIX_TIMESTAMP", 3),
        FeatureSpec("v:last", "STRING", -1, Encoding.ROW),
        FeatureSpec("v:weights", "FLOAT_LIST", 0.25, length=3),
        FeatureSpec("v:items", "STRING_LIST", -1, Encoding.ROW, length=2),
        FeatureSpec("v:times", "UNIX_TIMESTAMP_LIST", 9, length=2),
        FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
    )
)
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
WHOLE_SECONDS = MOMENTS.map(lambda moment: moment.replace(microsecond=0))
IDS = st.sampled_from(["x", "y", "ü", "unknown"])


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


LINES = st.fixed_dictionaries(
    {
        "event_timestamp": MOMENTS,
        "v__spend": maybe(st.floats(-1e6, 1e6, width=32)),
        "v__count": maybe(st.integers(-(2**40), 2**40)),
        "v__name": maybe(st.text(max_size=5)),
        "v__since": maybe(WHOLE_SECONDS),
        "v__last": maybe(IDS),
        "v__weights": maybe(st.lists(st.floats(0, 9, width=32), max_size=5)),
        "v__items": maybe(st.lists(IDS, max_size=4)),
        "v__times": maybe(st.lists(WHOLE_SECONDS, max_size=4)),
    }
)


def frame_of(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Columns of the types that Feast's DuckDB store returns."""
    frame = pd.DataFrame(lines, columns=["event_timestamp", *LINES_COLUMNS], dtype=object)
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True).astype("datetime64[us, UTC]")
    frame["v__spend"] = frame["v__spend"].astype(np.float32)
    frame["v__since"] = pd.to_datetime(frame["v__since"], utc=True).astype("datetime64[s, UTC]")
    for name in ("v__weights", "v__items", "v__times"):
        # One element at a time, since pandas would spread a list over lines.
        column = np.empty(len(frame), object)
        for line, values in enumerate(frame[name]):
            if isinstance(values, list):
                dtype: Any = {"v__weights": np.float32, "v__items": object, "v__times": "datetime64[s]"}[name]
                column[line] = np.array([_naive(value) for value in values], dtype=dtype)
        frame[name] = column
    return frame


LINES_COLUMNS = [f"v__{spec.feature}" for spec in CONTRACT.stored_features]


def _naive(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def reference(line: dict[str, Any]) -> dict[str, list[Any]]:
    rows = {item: row for row, item in enumerate(ITEMS)}
    packed: dict[str, list[Any]] = {"user_float": [], "user_int": [], "user_string": []}
    for spec in CONTRACT.features:
        value = line["event_timestamp"] if spec.from_request else line[f"v__{spec.feature}"]
        values = [] if value is None else list(value)[: spec.length] if spec.is_list else [value]
        if spec.encoding == Encoding.ROW:
            values = [rows.get(item, -1) for item in values]
        elif spec.element == "UNIX_TIMESTAMP":
            values = [int(moment.timestamp()) for moment in values]
        packed[str(spec.tensor)] += values + [spec.default] * (spec.width - len(values))
    return packed


@given(st.lists(LINES, max_size=6))
def test_pack_frame(lines: list[dict[str, Any]]) -> None:
    packed = pack_frame(CONTRACT, frame_of(lines), ITEMS)
    assert packed.user_float.dtype == np.float32
    assert packed.user_int.dtype == np.int64
    assert packed.user_string.dtype == object
    for number, line in enumerate(lines):
        wanted = reference(line)
        for name, values in wanted.items():
            assert getattr(packed, name)[number].tolist() == values
    assert len(packed) == len(lines)
    assert packed.user_float.shape[1] == 4


def test_a_missing_column_is_named() -> None:
    frame = frame_of([]).drop(columns="v__times")
    with pytest.raises(FeatureContractError, match=r"v:times but the training frame has no column 'v__times'"):
        pack_frame(CONTRACT, frame, ITEMS)


def test_first_users() -> None:
    users = UserTensors(np.arange(3.0)[:, None], np.arange(3)[:, None], np.array([["a"], ["b"], ["c"]], object))
    assert first_users(users, 2).user_string.tolist() == [["a"], ["b"]]
    assert len(first_users(users, 9)) == 3


@given(st.lists(st.sampled_from(["", "a", "b", "日", "a "]), max_size=30), st.integers(1, 3), st.integers(1, 3))
def test_vocabulary(column: list[str], at_least: int, most: int) -> None:
    vocabulary = Vocabulary.of(np.array(column, object), at_least=at_least, most=most)
    frequent = sorted((-column.count(text), text) for text in set(column) if text and column.count(text) >= at_least)
    assert vocabulary.values == tuple(text for _, text in frequent[:most])
    assert len(vocabulary) == len(vocabulary.values) + 1
    codes = vocabulary.codes(np.array([*column, "never seen"], object))
    wanted = {text: code for code, text in enumerate(vocabulary.values, start=1)}
    assert codes.tolist() == [wanted.get(text, 0) for text in [*column, "never seen"]]
