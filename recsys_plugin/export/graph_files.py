"""ONNX files of any size: the weights of graphs that protocol buffers cannot hold lie in a file beside them.

A protocol buffer ends at 2 GB, weights included. ONNX's own way out is external data: the graph names a file in its
folder, with an offset and a length for each tensor, which ONNX Runtime maps into memory. Here large weights go from
file to file a piece at a time and are never in memory together. Source: onnx/docs/ExternalData.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto

from recsys_plugin.errors import StepFailed

__all__ = ["GRAPH_LIMIT", "data_path", "digest_of", "load_graph", "save_graph", "spill", "tidy", "total_bytes"]

#: What a graph with all its weights in it may take, bytes; protocol buffers end at twice that.
GRAPH_LIMIT = 1 << 30
#: Smaller tensors stay in the graph, where shapes and indices must be for the runtime to reason about them.
_LEAST = 1 << 20
#: Every tensor begins at a multiple of this, so that it can be mapped.
_ALIGNMENT = 1 << 16
_PIECE = 1 << 24


def data_path(path: Path) -> Path:
    """The file for a graph's large weights."""
    return path.with_name(path.name + ".data")


def total_bytes(paths: Iterable[Path]) -> int:
    """What graphs and their weights take on disk."""
    files = [file for path in paths for file in (path, data_path(path)) if file.exists()]
    return sum(file.stat().st_size for file in files)


def digest_of(path: Path) -> str:
    """SHA-256 of a graph and its weights, hexadecimal."""
    digest = hashlib.sha256()
    for file in (path, data_path(path)):
        if file.exists():
            with file.open("rb") as opened:
                while piece := opened.read(_PIECE):
                    digest.update(piece)
    return digest.hexdigest()


def load_graph(path: Path) -> onnx.ModelProto:
    """Load a graph without the weights that lie beside it; where they lie is absolute then, for :func:`save_graph`."""
    model = onnx.load(path, load_external_data=False)
    for tensor in _outside(model):
        _, offset, length = _placed(tensor)
        _place(tensor, str(data_path(path)), offset, length)
    return model


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Save a graph; weights that lie in files of other graphs are copied to one beside it."""
    outside = _outside(model)
    if outside:
        copied: dict[tuple[str, int], int] = {}
        with data_path(path).open("wb") as target:
            for tensor in outside:
                location, offset, length = _placed(tensor)
                if (location, offset) not in copied:
                    copied[location, offset] = _aligned(target)
                    with Path(location).open("rb") as source:
                        source.seek(offset)
                        _copy(source, target, length)
                _place(tensor, data_path(path).name, copied[location, offset], length)
    onnx.save(model, path)
    if outside:
        onnx.checker.check_model(str(path), full_check=False)


def spill(path: Path) -> None:
    """Move the large weights of a graph to a file beside it, in place; nothing to do where they are already."""
    model = onnx.load(path, load_external_data=False)
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= _LEAST]
    if not large or _outside(model):
        return
    with data_path(path).open("wb") as target:
        for tensor in large:
            offset, size = _aligned(target), len(tensor.raw_data)
            target.write(tensor.raw_data)
            _place(tensor, data_path(path).name, offset, size)
            tensor.ClearField("raw_data")
    onnx.save(model, path)


def tidy(path: Path) -> None:
    """Remove the file of weights beside a graph that names none any more."""
    if not _outside(onnx.load(path, load_external_data=False)):
        data_path(path).unlink(missing_ok=True)


def _outside(model: onnx.ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def _placed(tensor: TensorProto) -> tuple[str, int, int]:
    """Where a tensor lies outside: file, offset and length in bytes."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries["offset"]), int(entries["length"])


def _place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Say where a tensor lies; what it holds itself stays."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def _aligned(target: BinaryIO) -> int:
    """Go to where the next tensor begins."""
    return target.seek(-(-target.tell() // _ALIGNMENT) * _ALIGNMENT)


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        piece = source.read(min(size, _PIECE))
        if not piece:
            raise StepFailed(f"{source.name} ends {size} bytes early; run `recsys export` again")
        target.write(piece)
        size -= len(piece)
