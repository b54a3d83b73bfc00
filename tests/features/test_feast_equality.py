"""What the plan reads equals what Feast's own ``get_online_features`` reads, for every value type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.contract import DTYPES, REQUEST_TIMESTAMP, FeatureContract, FeatureSpec, TensorName
from recsys_plugin.features.plan import ReadFeatures, ReadPlan
from recsys_plugin.features.reader import FeatureReader

LENGTH = 5
DEFAULTS: dict[str, Any] = {"FLOAT": 0.0, "DOUBLE": 0.0, "BOOL": False, "STRING": "", "BYTES": ""}
EVERYTHING = FeatureContract(
    tuple(
        FeatureSpec(
            f"everything:{dtype}",
            dtype,
            DEFAULTS.get(dtype.removesuffix("_LIST"), 0),
            length=LENGTH if dtype.endswith("_LIST") else None,
        )
        for dtype in sorted(DTYPES)
    ),
    project="shop",
)
PROFILE = FeatureContract(
    (
        FeatureSpec("profile:purchases", "FLOAT", 0.0, max_age_seconds=86_400),
        FeatureSpec("profile:country", "STRING", "?"),
        FeatureSpec("profile:recent", "STRING_LIST", "", length=3),
        FeatureSpec("profile:signed_up_at", "UNIX_TIMESTAMP", 0),
        FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
    ),
    project="shop",
)
NOW = datetime.now(UTC).replace(microsecond=0)
# Feast turns times into datetimes on the way out, and numpy has no room for the rest.
TIMES = st.integers(0, 4_000_000_000)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "FLOAT": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "DOUBLE": st.floats(-1e30, 1e30),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "STRING": st.text(max_size=20),
    "BYTES": st.binary(max_size=20),
    "UNIX_TIMESTAMP": TIMES,
}


def values(dtype: str) -> st.SearchStrategy[Any]:
    element = SCALARS[dtype.removesuffix("_LIST")]
    return st.none() | (st.lists(element, max_size=LENGTH) if dtype.endswith("_LIST") else element)


def as_value(dtype: str, content: Any) -> Value:
    value = Value()
    if content is None:
        return value
    name = f"{dtype.lower()}_val"
    if dtype.endswith("_LIST"):
        getattr(value, name).SetInParent()
        getattr(value, name).val.extend(content)
    else:
        setattr(value, name, content)
    return value


@pytest.fixture(scope="session")
def reader(redis_server: Any) -> Any:
    reader = FeatureReader(RedisAddress.parse(redis_server.url), timeout=5)
    yield reader
    reader.close()


_users = count()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({dtype: values(dtype) for dtype in sorted(DTYPES)}))
def test_every_type_equals_get_online_features(feast_store: Any, reader: FeatureReader, row: dict[str, Any]) -> None:
    user_id = f"user-{next(_users)}"
    entity = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
    protos = {dtype: as_value(dtype, content) for dtype, content in row.items()}
    view = feast_store.get_feature_view("everything")
    feast_store._get_provider().online_write_batch(feast_store.config, view, [(entity, protos, NOW, None)], None)

    response = feast_store.get_online_features(
        [spec.reference for spec in EVERYTHING.features], [{"user_id": user_id}]
    ).proto
    theirs = {
        name: result.values[0]
        for name, result in zip(response.metadata.feature_names.val, response.results, strict=True)
    }
    plan = ReadPlan(EVERYTHING)
    replies = reader.read(ReadFeatures([plan.key(user_id)], plan.fields), timeout=5)
    tensors, (report,) = plan.decode([user_id], replies, now=NOW.timestamp(), rows={})
    lines = {
        TensorName.FLOAT: tensors.user_float[0],
        TensorName.INT: tensors.user_int[0],
        TensorName.STRING: tensors.user_string[0],
    }
    for spec in EVERYTHING.features:
        slot = EVERYTHING.slots[spec.reference]
        ours = lines[slot.tensor][slot.offset : slot.offset + slot.width].tolist()
        value = theirs[spec.feature]
        kind = value.WhichOneof("val")
        assert (spec.reference in report.missing) == (kind is None)
        found: Any = [] if kind is None else getattr(value, kind)
        if kind is not None:
            found = list(found.val) if spec.is_list else [found]
        default = spec.default.encode() if isinstance(spec.default, str) else spec.default
        padded = [text.encode() if isinstance(text, str) else text for text in found]
        padded += [default] * (spec.width - len(padded))
        if spec.tensor == TensorName.FLOAT:
            padded = np.array(padded, dtype=np.float32).tolist()
        assert ours == padded, spec.reference


def test_everyday_writes_absent_and_expired_users(feast_store: Any, reader: FeatureReader) -> None:
    frame = pd.DataFrame(
        {
            "user_id": ["fresh", "stale"],
            "event_timestamp": [NOW, NOW - timedelta(days=2)],
            "country": ["DE", "FR"],
            "purchases": np.array([3.0, 4.0], dtype=np.float32),
            "recent": [["tea", "cup"], ["pot"]],
            "signed_up_at": [datetime(2020, 1, 1, tzinfo=UTC)] * 2,
        }
    )
    feast_store.write_to_online_store("profile", frame)
    users = ["fresh", "stale", "nobody"]
    theirs = feast_store.get_online_features(
        [spec.reference for spec in PROFILE.stored_features], [{"user_id": user} for user in users]
    ).to_dict()
    plan = ReadPlan(PROFILE)
    replies = reader.read(ReadFeatures([plan.key(user) for user in users], plan.fields), timeout=5)
    tensors, (fresh, stale, nobody) = plan.decode(users, replies, now=NOW.timestamp(), rows={})
    assert tensors.user_float[0, 0] == theirs["purchases"][0] == 3.0
    assert tensors.user_string[0].tolist() == [b"DE", b"tea", b"cup", b""]
    assert tensors.user_int[0, 0] == 1577836800
    assert fresh.known
    assert (fresh.missing, fresh.expired) == ((), ())
    # Feast itself calls a value two days older than the view's ttl present; age must come from the event time.
    assert theirs["purchases"][1] == 4.0
    assert stale.expired == ("profile:purchases",)
    assert tensors.user_float[1, 0] == 0.0
    assert not nobody.known
    assert theirs["country"][2] is None
