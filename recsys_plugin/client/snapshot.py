"""What a client needs to make a page while no server can be reached, as a file: catalogue, popularity and rules.

The file holds a line that names the format, the SHA-256 of what follows, a JSON header, and after it the columns as
their bytes; nothing in it is code, and nothing is of a single user. It is written beside itself and renamed, so that
whoever reads it finds a whole one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.client.release import Release, index_of, with_sold_out
from recsys_plugin.errors import ConfigurationError
from recsys_plugin.inference.catalogue import Catalogue
from recsys_plugin.inference.item_vectors import ItemVectors
from recsys_plugin.inference.labels import Labels
from recsys_plugin.policy.popularity import PopularItems, Popularity
from recsys_plugin.policy.rules import NO_RULES, MalformedRules, PageRules

__all__ = ["MalformedSnapshot", "Snapshot", "check_snapshot", "read_snapshot", "write_snapshot"]

_REMEDY = "remove it, and the next client that reaches its servers writes it anew"
_FORMAT = b"recsys-plugin snapshot 1\n"
_DIGEST = hashlib.sha256().digest_size
#: Number of bytes of the length of the header.
_LENGTH = 8
_TYPES = {"int64": np.int64, "int32": np.int32, "float64": np.float64, "float32": np.float32, "uint8": np.uint8}
_TEXTS = ("item_ids", "titles")
_LABELS = ("categories", "subcategories", "brands")
_NUMBERS = ("prices", "available_since", "stock")


class MalformedSnapshot(ConfigurationError):
    """A file is no snapshot, or not a whole one; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file holds."""

    release: Release
    """Without models."""
    rules: PageRules


def write_snapshot(path: Path, project: str, release: Release, rules: PageRules) -> None:
    """Write what a release knows of its items, and the shop's rules; what was there before is replaced as a whole.

    Raises:
        OSError: if the file cannot be written; what was there before is then as it was.
    """
    catalogue, popularity = release.catalogue, release.popularity
    columns: dict[str, NDArray[Any]] = {}
    for name in _TEXTS:
        columns |= _packed(name, getattr(catalogue, name))
    names = {label: list(getattr(catalogue, label).names) for label in _LABELS}
    columns |= {label: getattr(catalogue, label).codes for label in _LABELS}
    columns |= {name: getattr(catalogue, name) for name in _NUMBERS}
    columns["shares"] = popularity.shares
    segments = sorted(popularity.segments)
    told = [popularity.segments[segment] for segment in segments]
    columns["segment_sizes"] = np.array([len(items.rows) for items in told], np.int64)
    columns["segment_rows"] = np.concatenate([np.empty(0, np.int64), *(items.rows for items in told)])
    columns["segment_shares"] = np.concatenate([np.empty(0, np.float32), *(items.shares for items in told)])
    header = {
        "project": project,
        "version": release.version,
        "items": len(catalogue),
        "labels": names,
        "segments": segments,
        "rules": None if rules is NO_RULES else rules.to_dict(),
        "rules_digest": rules.digest,
        "columns": [[name, column.dtype.name, len(column)] for name, column in columns.items()],
    }
    plain = json.dumps(header, ensure_ascii=False).encode()
    parts = [len(plain).to_bytes(_LENGTH, "little"), plain, *(_little(column) for column in columns.values())]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    _replace(path, [_FORMAT, digest.digest(), *parts])


def check_snapshot(path: Path) -> bool:
    """Whether there is a file, and it is whole.

    Raises:
        MalformedSnapshot: if there is another file, or one that was cut or changed, or it cannot be read.
    """
    try:
        _body(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise MalformedSnapshot(f"{path} cannot be read: {error}") from error
    return True


def _body(path: Path) -> memoryview:
    """What follows the digest, which must be its own."""
    content = path.read_bytes()
    if not content.startswith(_FORMAT):
        raise MalformedSnapshot(f"{path} is no snapshot of format {_FORMAT.decode().split()[-1]}; {_REMEDY}")
    body = memoryview(content)[len(_FORMAT) + _DIGEST :]
    if hashlib.sha256(body).digest() != content[len(_FORMAT) : len(_FORMAT) + _DIGEST]:
        raise MalformedSnapshot(f"{path}: its SHA-256 is another than it was written with: cut or changed; {_REMEDY}")
    return body


def read_snapshot(path: Path, project: str) -> Snapshot:
    """Read what :func:`write_snapshot` wrote.

    Raises:
        MalformedSnapshot: if it is another file, was cut or changed, or is of another project or a later format.
        FileNotFoundError: if there is none. OSError: if it cannot be read.
    """
    body = _body(path)
    try:
        size = int.from_bytes(body[:_LENGTH], "little")
        header = json.loads(bytes(body[_LENGTH : _LENGTH + size]))
        columns = dict(_columns(header["columns"], body[_LENGTH + size :]))
        if header["project"] != project:
            raise MalformedSnapshot(f"{path} is of project {header['project']!r}, this client serves {project!r}")
        return _snapshot(header, columns)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, MalformedRules) as error:
        raise MalformedSnapshot(f"{path}: what it holds makes no catalogue: {error!r:.200}; {_REMEDY}") from error


def _snapshot(header: Mapping[str, Any], columns: Mapping[str, NDArray[Any]]) -> Snapshot:
    texts = {name: _unpacked(name, columns) for name in _TEXTS}
    labels = {label: _labels(header["labels"][label], columns[label]) for label in _LABELS}
    numbers = [columns[name] for name in _NUMBERS]
    size, shares = header["items"], columns["shares"].copy()
    rows = {item_id: row for row, item_id in enumerate(texts["item_ids"])}
    # Of ids that come twice there are fewer rows.
    every: list[Any] = [*texts.values(), *labels.values(), *numbers, rows, shares]
    if any(len(column) != size for column in every):
        raise ValueError(f"columns of {sorted({len(column) for column in every})} rows for {size} items")
    ends = np.cumsum(columns["segment_sizes"])
    if len(ends) != len(header["segments"]):
        raise ValueError(f"{len(header['segments'])} segments and {len(ends)} sizes")
    segments = {}
    for (attribute, value), end, count in zip(header["segments"], ends, columns["segment_sizes"], strict=True):
        place = slice(end - count, end)
        segments[str(attribute), str(value)] = PopularItems(
            columns["segment_rows"][place].copy(), columns["segment_shares"][place].copy()
        )
    if any(items.rows.size and not 0 <= items.rows.min() <= items.rows.max() < size for items in segments.values()):
        raise ValueError(f"a segment names rows beyond {size} items")
    catalogue = Catalogue(
        version=int(header["version"]),
        item_ids=tuple(texts["item_ids"]),
        rows=rows,
        titles=np.array(texts["titles"], dtype=object),
        categories=labels["categories"],
        subcategories=labels["subcategories"],
        brands=labels["brands"],
        prices=columns["prices"].astype(np.float64),
        available_since=columns["available_since"].astype(np.int64),
        stock=columns["stock"].astype(np.int64),
        vectors=ItemVectors(size),
    )
    release = Release(
        catalogue.version,
        catalogue,
        models={},
        step_versions={},
        search_index=index_of(catalogue),
        popularity=Popularity(shares, segments),
    )
    rules = NO_RULES
    if header["rules"] is not None:
        made = PageRules.from_json(json.dumps(header["rules"]))
        rules = PageRules(made.default, made.shelves, str(header["rules_digest"]))
    return Snapshot(with_sold_out(release), rules)


def _labels(names: Sequence[str], codes: NDArray[Any]) -> Labels:
    labels = Labels(())
    for name in names:
        labels.number(name)
    if len(labels.names) != len(names) or (len(codes) and not 0 <= codes.min() <= codes.max() < len(names)):
        raise ValueError("numbers of labels that there are not")
    labels.codes = codes.astype(np.int32)
    return labels


def _packed(name: str, texts: Sequence[str] | NDArray[np.object_]) -> dict[str, NDArray[Any]]:
    """Texts as their bytes, one after the other, and the length of each."""
    encoded = [text.encode() for text in texts]
    return {
        name: np.frombuffer(b"".join(encoded), np.uint8),
        f"{name}_lengths": np.fromiter(map(len, encoded), np.int64, len(encoded)),
    }


def _unpacked(name: str, columns: Mapping[str, NDArray[Any]]) -> list[str]:
    joined, lengths = columns[name].tobytes(), columns[f"{name}_lengths"]
    ends = np.cumsum(lengths).tolist()
    if (lengths < 0).any() or (ends[-1] if ends else 0) != len(joined):
        raise ValueError(f"{name}: lengths and bytes differ")
    return [joined[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


def _columns(described: Sequence[Any], body: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    place = 0
    for name, kind, length in described:
        dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
        if not isinstance(length, int) or length < 0:
            raise ValueError(f"column {name!r:.40} of length {length!r:.40}")
        yield str(name), np.frombuffer(body, dtype, length, place).astype(_TYPES[kind], copy=False)
        place += length * dtype.itemsize
    if place != len(body):
        raise ValueError(f"{len(body)} bytes of columns, of which {place} are described")


def _little(column: NDArray[Any]) -> bytes:
    return column.astype(column.dtype.newbyteorder("<"), copy=False).tobytes()


def _replace(path: Path, parts: Sequence[bytes]) -> None:
    """Write a file beside the one of that name, and let it take its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
