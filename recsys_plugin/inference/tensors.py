"""Arrays to and from the raw bytes that Triton's gRPC messages carry."""

from __future__ import annotations

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
    count = int(np.prod(shape, dtype=np.int64))
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = _strings(data, count)
        return array.reshape(shape)
    if datatype not in _DTYPES:
        raise MalformedTensorError(f"datatype {datatype} is none of BYTES, {', '.join(_DTYPES)}")
    dtype = _DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise MalformedTensorError(f"{len(data)} bytes do not fill {datatype} {list(shape)}")
    array = np.frombuffer(data, dtype=dtype)
    return array.reshape(shape)


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
