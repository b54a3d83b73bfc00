"""Arrays to and from the raw bytes that Triton's gRPC messages carry."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "MalformedTensorError",
    "datatype_of",
    "decode_tensor",
    "encode_tensor",
]

Array = NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
}
_NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in _DTYPES.items()} | {np.dtype(object): "BYTES"}


class MalformedTensorError(ValueError):
    """A reply's tensor is not what its description says, or not what was asked for."""


def datatype_of(array: Array) -> str:
    """Triton's name for an array's dtype; an array of objects is BYTES."""
    return _NAMES[array.dtype]


def encode_tensor(array: Array) -> bytes:
    """An array in row-major order as Triton takes it; BYTES elements carry a 4-byte little-endian length each."""
    if array.dtype != np.dtype(object):
        return array.tobytes()
    parts: list[bytes] = []
    for element in array.flat:
        parts += (struct.pack("<I", len(element)), element)
    return b"".join(parts)


def decode_tensor(datatype: str, shape: Sequence[int], data: bytes) -> Array:
    """The array that Triton sent; elements of BYTES are ``bytes``.

    Raises:
        MalformedTensorError: if the bytes do not fill the shape exactly, or the datatype is none we read.
    """
    if any(size < 0 for size in shape):
        raise MalformedTensorError(f"shape {list(shape)} has a negative size")
    count = math.prod(shape)  # numpy's product could overflow, to a number that fits
    if datatype == "BYTES":
        # Each element has a length of 4 bytes at least; looked at first, lest an absurd shape take all memory.
        if count > len(data):
            raise MalformedTensorError(f"{len(data)} bytes do not hold {count} strings")
        array = np.empty(count, dtype=object)
        array[:] = _strings(data, count)
        return _shaped(array, shape)
    if datatype not in _DTYPES:
        raise MalformedTensorError(f"datatype {datatype} is none of BYTES, {', '.join(_DTYPES)}")
    dtype = _DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise MalformedTensorError(f"{len(data)} bytes do not fill {datatype} {list(shape)}")
    return _shaped(np.frombuffer(data, dtype=dtype), shape)


def _shaped(array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(shape)
    except ValueError as error:  # beside a size of 0 there can be one that numpy cannot count
        raise MalformedTensorError(f"shape {list(shape)}: {error}") from error


def _strings(data: bytes, count: int) -> list[bytes]:
    strings, position = [], 0
    try:
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, position)
            position += 4 + length
            strings.append(data[position - length : position])
    except struct.error as error:
        raise MalformedTensorError(f"{len(data)} bytes do not hold {count} strings") from error
    if position != len(data):
        raise MalformedTensorError(f"{len(data)} bytes do not hold {count} strings")
    return strings
