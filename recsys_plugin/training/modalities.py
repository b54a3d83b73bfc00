"""What is known of an item besides numbers and codes: texts by source and an image vector, each with its mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from recsys_plugin.errors import DataError, StepFailed
from recsys_plugin.inference.new_items import item_text

__all__ = [
    "TITLE",
    "ItemModalities",
    "ModalityFusion",
    "TextAxes",
    "compact_along",
    "compact_texts",
    "image_vectors",
    "pool_sources",
    "read_modalities",
    "source_texts",
    "write_modalities",
]

_Array = np.ndarray[Any, np.dtype[Any]]

#: At most so many texts of one source are read for an item, the newest first.
MOST_TEXTS = 20
#: The source that every shop has: what :func:`~recsys_plugin.inference.new_items.item_text` says of an item.
TITLE = "title"


@dataclass(frozen=True, slots=True)
class TextAxes:
    """What compact text vectors are measured from and along, so that an item that comes later has one as well.

    Attributes:
        centre: float32 [D], the mean text vector of the catalogue. directions: float32 [D, 32], its principal axes.
    """

    centre: _Array
    directions: _Array


@dataclass(frozen=True, slots=True)
class ItemModalities:
    """Vectors of N items; what is missing is masked, never taken for zero.

    Attributes:
        sources: the names of the text sources, such as ``title``, ``description``, ``review``.
        texts: float32 [N, S, D], the mean of the unit vectors of an item's texts of one source.
        has_text: bool [N, S].
        images: float32 [N, I], unit vectors; I is 0 where the shop has none.
        has_image: bool [N].
        compact: float32 [N, 32], the mean of an item's texts along the principal axes of all, unit length; zero
            without a text.
        axes: how ``compact`` was made.
    """

    sources: tuple[str, ...]
    texts: _Array
    has_text: _Array
    images: _Array
    has_image: _Array
    compact: _Array
    axes: TextAxes

    @property
    def title(self) -> int | None:
        """The position of the source ``title``; None where no item of the catalogue has one."""
        if TITLE not in self.sources:
            return None
        position = self.sources.index(TITLE)
        return position if self.has_text[:, position].any() else None

    def without_text(self) -> ItemModalities:
        """The same with every text missing, to measure what texts are worth."""
        return replace(self, has_text=np.zeros_like(self.has_text), compact=np.zeros_like(self.compact))


def source_texts(
    items: pd.DataFrame, texts: pd.DataFrame, *, before: pd.Timestamp | None = None
) -> dict[str, list[list[str]]]:
    """The texts of each item by source: ``title`` (with category and brand), ``description``, then the shop's own.

    Args:
        items: canonical items in row order. texts: canonical texts; only rows about items count.
        before: leaves out texts written at or after this moment, so that training reads nothing of its future.

    Returns:
        source → one list of texts per item; sources that no item has are left out.
    """
    heads = items[["title", "category", "brand"]].fillna("")
    result = {
        TITLE: [[item_text(*row)] for row in heads.itertuples(index=False, name=None)],
        "description": [[text] if text else [] for text in items["description"].fillna("")],
    }
    about = texts[texts["entity"] == "item"]
    if before is not None:
        about = about[about["timestamp"].isna() | (about["timestamp"] < before)]
    about = about.sort_values("timestamp", ascending=False, kind="stable", na_position="last")
    rows = pd.Index(items["item_id"]).get_indexer(pd.Index(about["entity_id"]))
    for source in sorted(about["source"].unique()):
        chosen = (about["source"] == source).to_numpy() & (rows >= 0)
        lists = result.setdefault(str(source), [[] for _ in range(len(items))])
        for row, text in zip(rows[chosen], about["text"].to_numpy()[chosen], strict=True):
            if len(lists[row]) < MOST_TEXTS and text not in lists[row]:
                lists[row].append(text)
    return {source: lists for source, lists in result.items() if any(text.strip() for each in lists for text in each)}


def image_vectors(column: pd.Series[Any] | None, items: int) -> tuple[_Array, _Array]:
    """Unit image vectors float32 [N, I] and which items have one, bool [N]; I is 0 where there are none.

    Raises:
        DataError: if the vectors differ in length.
    """
    if column is None or not column.notna().any():
        return np.zeros((items, 0), np.float32), np.zeros(items, bool)
    present = column.notna().to_numpy()
    vectors = [np.asarray(vector, np.float32) for vector in column[present]]
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1:
        raise DataError(
            f"lengths {sorted(lengths)}; all vectors must be of one length", file="items", column="image_vector"
        )
    matrix = np.zeros((items, lengths.pop()), np.float32)
    matrix[present] = np.stack(vectors)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    present &= norms[:, 0] > 0
    return (matrix / np.maximum(norms, 1e-12)).astype(np.float32), present


def pool_sources(lists: Mapping[str, list[list[str]]], vectors: _Array, items: int) -> tuple[_Array, _Array]:
    """The mean vector of each item's texts of each source.

    Args:
        lists: what :func:`source_texts` returned. items: N.
        vectors: float32 [texts, D], of all those texts in order: by source, then item.

    Returns:
        float32 [N, S, D], and bool [N, S]: which items have a text of which source.
    """
    texts = np.zeros((items, len(lists), vectors.shape[1]), np.float32)
    present = np.zeros((items, len(lists)), bool)
    start = 0
    for position, source in enumerate(lists.values()):
        for row, each in enumerate(source):
            part = vectors[start : start + len(each)]
            start += len(each)
            spoken = np.array([bool(text.strip()) for text in each], bool)
            if spoken.any():
                texts[row, position] = part[spoken].mean(0)
                present[row, position] = True
    return texts, present


def compact_texts(texts: _Array, has_text: _Array, directions: _Array) -> tuple[_Array, TextAxes]:
    """The mean over an item's sources, from the mean of all items, along some directions.

    Args:
        texts: float32 [N, S, D]. has_text: bool [N, S]. directions: float32 [D, width].

    Returns:
        Unit vectors float32 [N, width], zero without a text, and what they are measured from and along.
    """
    mean, some = _source_means(texts, has_text)
    centre = mean[some].mean(0) if len(mean[some]) else np.zeros(mean.shape[1])
    return _unit_along(mean - centre, some, directions), TextAxes(centre.astype(np.float32), directions)


def compact_along(texts: _Array, has_text: _Array, axes: TextAxes) -> _Array:
    """What :func:`compact_texts` makes, of other items than those that the axes were found on."""
    mean, some = _source_means(texts, has_text)
    return _unit_along(mean - axes.centre, some, axes.directions)


def _source_means(texts: _Array, has_text: _Array) -> tuple[_Array, _Array]:
    """float64 [N, D], the mean over the sources that an item has, and bool [N], whether it has one."""
    shares = has_text / np.maximum(has_text.sum(1, keepdims=True), 1)
    return np.einsum("nsd,ns->nd", texts, shares), np.asarray(has_text.any(1))


def _unit_along(centred: _Array, some: _Array, directions: _Array) -> _Array:
    narrowed = (centred @ directions) * some[:, None]
    unit: _Array = (narrowed / np.maximum(np.linalg.norm(narrowed, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return unit


def write_modalities(path: Path, modalities: ItemModalities) -> None:
    """Write to one safetensors file; the source names go into its metadata."""
    tensors = {
        "texts": modalities.texts,
        "has_text": modalities.has_text,
        "images": modalities.images,
        "has_image": modalities.has_image,
        "compact": modalities.compact,
        "centre": modalities.axes.centre,
        "directions": modalities.axes.directions,
    }
    save_file(tensors, path, metadata={f"source_{i:03}": name for i, name in enumerate(modalities.sources)})


def read_modalities(path: Path) -> ItemModalities:
    """Read what :func:`write_modalities` wrote.

    Raises:
        StepFailed: if an earlier version of this package wrote the file.
    """
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata() or {}
    tensors = load_file(path)
    if not {"centre", "directions"} <= tensors.keys():
        raise StepFailed(f"{path} says not how its compact vectors were made; run `recsys train` again")
    sources = tuple(metadata[key] for key in sorted(metadata))
    axes = TextAxes(tensors.pop("centre"), tensors.pop("directions"))
    return ItemModalities(sources=sources, axes=axes, **tensors)


class ModalityFusion(nn.Module):
    """Texts by source, pooled with learned weights over those that are there, and the image vector → [N, width].

    A modality that an item lacks is replaced by a learned vector: "not known" is not the same as zero.
    """

    texts: Tensor
    has_text: Tensor
    images: Tensor
    has_image: Tensor

    def __init__(self, modalities: ItemModalities, width: int) -> None:
        super().__init__()
        self.register_buffer("texts", torch.from_numpy(modalities.texts))
        self.register_buffer("has_text", torch.from_numpy(modalities.has_text.astype(np.float32)))
        self.register_buffer("images", torch.from_numpy(modalities.images))
        self.register_buffer("has_image", torch.from_numpy(modalities.has_image.astype(np.float32)))
        self.source_weight = nn.Parameter(torch.zeros(len(modalities.sources)))
        self.from_text = nn.Linear(modalities.texts.shape[2], width)
        self.no_text = nn.Parameter(torch.zeros(width))
        self.from_image = nn.Linear(modalities.images.shape[1], width) if modalities.images.shape[1] else None
        self.no_image = nn.Parameter(torch.zeros(width))

    def source_shares(self) -> _Array:
        """What each source counts for an item that has all of them, float32 [S], summing to 1."""
        shares: _Array = torch.softmax(self.source_weight.detach(), 0).numpy()
        return shares

    def forward(self) -> Tensor:
        """The catalogue's, float32 [N, width]."""
        return self.fuse(self.texts, self.has_text, self.images, self.has_image)

    def fuse(self, texts: Tensor, has_text: Tensor, images: Tensor, has_image: Tensor) -> Tensor:
        """float32 [n, width] of any items, given as :class:`ItemModalities` has them, the masks as float32."""
        weights = torch.exp(self.source_weight) * has_text
        total = weights.sum(1, keepdim=True)
        pooled = (texts * weights.unsqueeze(-1)).sum(1) / total.clamp(min=1e-6)
        fused = torch.where(total > 0, self.from_text(pooled), self.no_text)
        if self.from_image is not None:
            seen = has_image.unsqueeze(1) > 0
            fused = fused + torch.where(seen, self.from_image(images), self.no_image)
        return fused
