"""Raw tensors: equality with tritonclient's own encoding, and refusal of bytes that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from recsys_plugin.inference.tensors import MalformedTensorError, datatype_of, decode_tensor, encode_tensor


def strings(values: list[bytes], shape: tuple[int, ...]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_strings_equal_tritonclients_encoding(values: list[bytes]) -> None:
    array = strings(values, (1, len(values)))
    data = encode_tensor(array)
    if values:
        assert data == serialize_byte_tensor(array).item()
        assert deserialize_bytes_tensor(data).tolist() == values
    assert decode_tensor("BYTES", array.shape, data).tolist() == array.tolist()


@pytest.mark.parametrize(
    "dtype, name", [("<f4", "FP32"), ("<f8", "FP64"), ("<i4", "INT32"), ("<i8", "INT64"), ("?", "BOOL")]
)
def test_numbers_round_trip(dtype: str, name: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    assert datatype_of(array) == name
    for layout in (array, np.asfortranarray(array)):
        np.testing.assert_array_equal(decode_tensor(name, (2, 3), encode_tensor(layout)), array)


@pytest.mark.parametrize(
    "datatype, shape, data",
    [
        ("FP32", (2,), b"\0" * 7),
        ("FP32", (2,), b"\0" * 12),
        ("BYTES", (1,), b"\x05\0\0\0abc"),
        ("BYTES", (1,), b"\0\0"),
        ("BYTES", (1,), b"\0\0\0\0\0"),
        ("FP16", (1,), b"\0\0"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(datatype: str, shape: tuple[int, ...], data: bytes) -> None:
    with pytest.raises(MalformedTensorError):
        decode_tensor(datatype, shape, data)
