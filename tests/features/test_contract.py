"""The feature contract: packing, fingerprint, refusal of contradictions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.errors import FeatureContractError, InvalidInput
from recsys_plugin.features.contract import (
    DTYPES,
    REQUEST_TIMESTAMP,
    Encoding,
    FeatureContract,
    FeatureSpec,
    Slot,
    TensorName,
)

BASE = (
    FeatureSpec("profile:purchases", "FLOAT", 0),
    FeatureSpec("recent:item_ids", "STRING_LIST", -1, encoding=Encoding.ROW, length=3),
    FeatureSpec("profile:country", "STRING", ""),
    FeatureSpec("profile:weights", "DOUBLE_LIST", 0.5, length=2),
    FeatureSpec(REQUEST_TIMESTAMP, "UNIX_TIMESTAMP", 0),
)

_NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)


def _default(dtype: str) -> st.SearchStrategy[Any]:
    element = dtype.removesuffix("_LIST")
    if element in ("FLOAT", "DOUBLE"):
        return st.floats(allow_nan=False, allow_infinity=False)
    if element == "BOOL":
        return st.booleans()
    if element in ("STRING", "BYTES"):
        return st.text(max_size=8)
    return st.integers(-(2**31), 2**31 - 1)


@st.composite
def specs(draw: st.DrawFn) -> FeatureSpec:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    row = dtype.removesuffix("_LIST") == "STRING" and draw(st.booleans())
    return FeatureSpec(
        reference=f"{draw(_NAMES)}:{draw(_NAMES)}",
        dtype=dtype,
        default=-1 if row else draw(_default(dtype)),
        encoding=Encoding.ROW if row else Encoding.VALUE,
        length=draw(st.integers(1, 9)) if dtype.endswith("_LIST") else None,
        max_age_seconds=draw(st.none() | st.integers(1, 10**6)),
    )


@given(st.lists(specs(), max_size=6, unique_by=lambda spec: spec.reference))
def test_json_round_trip_and_slots_cover_each_tensor_without_overlap(more: list[FeatureSpec]) -> None:
    taken = {spec.reference for spec in BASE}
    contract = FeatureContract((*BASE, *(spec for spec in more if spec.reference not in taken)))
    again = FeatureContract.from_json(contract.to_json())
    assert again == contract
    assert again.fingerprint == contract.fingerprint
    for name in TensorName:
        columns = [
            column
            for slot in contract.slots.values()
            if slot.tensor == name
            for column in range(slot.offset, slot.offset + slot.width)
        ]
        assert columns == list(range(contract.widths[name]))


def test_packing_follows_contract_order() -> None:
    contract = FeatureContract(BASE)
    assert contract.slots == {
        "profile:purchases": Slot(TensorName.FLOAT, 0, 1),
        "recent:item_ids": Slot(TensorName.INT, 0, 3),
        "profile:country": Slot(TensorName.STRING, 0, 1),
        "profile:weights": Slot(TensorName.FLOAT, 1, 2),
        REQUEST_TIMESTAMP: Slot(TensorName.INT, 3, 1),
    }


def test_equal_meanings_have_equal_fingerprints_and_order_matters() -> None:
    as_float = (FeatureSpec("profile:purchases", "FLOAT", 0.0), *BASE[1:])
    assert FeatureContract(BASE).fingerprint == FeatureContract(as_float).fingerprint
    assert FeatureContract(BASE[::-1]).fingerprint != FeatureContract(BASE).fingerprint


def test_fingerprint_is_the_documented_digest() -> None:
    import hashlib

    document = json.loads(FeatureContract(BASE).to_json())
    fingerprint = document.pop("fingerprint")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"project": "other"}, "changed after training"),
        ({"surprise": 1}, "does not know: surprise"),
        ({"features": "none"}, "not a list"),
        ({"features": [{"reference": "a:b"}]}, r"features\[0\] lacks"),
        ({"join_key_type": "FLOAT"}, "contradicts itself"),
    ],
)
def test_a_changed_document_is_refused(change: dict[str, Any], message: str) -> None:
    document = json.loads(FeatureContract(BASE).to_json()) | change
    with pytest.raises(FeatureContractError, match=message):
        FeatureContract.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1"])
def test_what_is_no_contract_is_refused(text: str) -> None:
    with pytest.raises(FeatureContractError):
        FeatureContract.from_json(text)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("nocolon", "FLOAT", 0.0), "view:feature"),
        (("a:b:c", "FLOAT", 0.0), "view:feature"),
        (("a:b", "MAP", 0.0), "is not one of"),
        (("a:b", "FLOAT", "x"), "must be a finite number"),
        (("a:b", "FLOAT", float("nan")), "must be a finite number"),
        (("a:b", "INT32", 2**31), "whole number"),
        (("a:b", "INT64", True), "whole number"),
        (("a:b", "BOOL", 0), "true or false"),
        (("a:b", "STRING", 0), "a string"),
        (("a:b", "STRING", "", "row"), "-1"),
        (("a:b", "INT64", -1, "row"), "STRING item ids"),
        (("a:b", "FLOAT", 0.0, "other"), '"value" or "row"'),
        (("a:b", "FLOAT", 0.0, "value", 3), "a scalar has no length"),
        (("a:b", "FLOAT_LIST", 0.0), "a list needs a length"),
        (("a:b", "FLOAT_LIST", 0.0, "value", 0), "1 or more"),
        (("a:b", "FLOAT", 0.0, "value", None, 0), "above 0"),
        ((REQUEST_TIMESTAMP, "FLOAT", 0.0), "UNIX_TIMESTAMP"),
    ],
)
def test_contradictions_in_a_feature_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        FeatureSpec(*arguments)


def test_empty_tensor_and_repeated_reference_are_refused() -> None:
    with pytest.raises(InvalidInput, match="user_string"):
        FeatureContract(BASE[:2])
    with pytest.raises(InvalidInput, match="profile:country named more than once"):
        FeatureContract((*BASE, BASE[2]))


def test_differences_name_each_disagreement_with_the_store() -> None:
    schema = {"profile:purchases": "FLOAT", "recent:item_ids": "STRING", "profile:weights": "DOUBLE_LIST"}
    assert FeatureContract(BASE).differences(schema) == [
        "recent:item_ids: the model wants STRING_LIST, the feature store has STRING",
        "profile:country: the model wants STRING, the feature store has no such feature",
    ]
