"""What a text encoder is fine-tuned on: pairs that belong together, and products graded for a query."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_plugin.errors import InvalidInput
from recsys_plugin.training.text import TextKind

__all__ = ["ContrastivePairs", "Embed", "FineTuningTask", "GradedPairs", "contrastive_loss", "graded_loss"]

_Array = np.ndarray[Any, np.dtype[Any]]

#: Texts of one kind → unit vectors float32 [texts, dimensions], with gradient.
Embed = Callable[[Sequence[str], TextKind], Tensor]

#: Products of one query in a batch: enough to compare, few enough that a batch holds several queries.
_LIST = 8


class FineTuningTask(Protocol):
    """Examples that can be cut into batches, and the loss of a batch."""

    def __len__(self) -> int:
        """How many examples there are."""

    def batches(self, size: int, generator: np.random.Generator) -> list[_Array]:
        """The examples in random order, as row numbers, about ``size`` at a time."""

    def loss(self, embed: Embed, rows: _Array) -> Tensor:
        """The mean loss of these examples, a scalar."""

    def digest(self) -> str:
        """SHA-256 of the examples, in hexadecimal."""


class ContrastivePairs:
    """Pairs of texts that belong together: a query and a product, or two products of one basket.

    A batch's other positives serve as negatives, but for those that are known to belong together as well.

    Args:
        anchors, positives: the two texts of each pair.
        anchor_kind: ``"query"``, or ``"passage"`` where both texts are products; then the pairs hold both ways.
        temperature: what cosines are divided by.

    Raises:
        InvalidInput: if the lists differ in length or a text is blank.
    """

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        *,
        anchor_kind: TextKind = "query",
        temperature: float = 0.05,
    ) -> None:
        _require_texts(anchors=anchors, positives=positives)
        self.anchors, self.positives = tuple(anchors), tuple(positives)
        self.anchor_kind, self.temperature = anchor_kind, temperature
        number = {text: position for position, text in enumerate(dict.fromkeys((*self.anchors, *self.positives)))}
        self._texts = len(number)
        self._anchor = np.array([number[text] for text in self.anchors], np.int64)
        self._positive = np.array([number[text] for text in self.positives], np.int64)
        codes = [self._anchor * self._texts + self._positive]
        if anchor_kind == "passage":
            codes.append(self._positive * self._texts + self._anchor)
        self._known = np.unique(np.concatenate(codes))

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.anchors)

    def batches(self, size: int, generator: np.random.Generator) -> list[_Array]:
        """Every pair once; a last batch of a single pair is left out, as it has no negatives."""
        order = generator.permutation(len(self))
        return [part for start in range(0, len(order), size) if len(part := order[start : start + size]) > 1]

    def together(self, rows: _Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which anchors (first axis) and positives (second axis) of these rows are no negatives of each other.

        They are a known pair, or the same text, or positives with the same text; bool [rows, rows].
        """
        anchor, positive = self._anchor[rows], self._positive[rows]
        codes = anchor[:, None] * self._texts + positive[None]
        known = self._known[np.searchsorted(self._known, codes).clip(max=len(self._known) - 1)] == codes
        together: np.ndarray[Any, np.dtype[np.bool_]] = known | (anchor[:, None] == positive[None])
        return together

    def loss(self, embed: Embed, rows: _Array) -> Tensor:
        """:func:`contrastive_loss` of these pairs."""
        return contrastive_loss(
            embed([self.anchors[row] for row in rows], self.anchor_kind),
            embed([self.positives[row] for row in rows], "passage"),
            torch.from_numpy(self.together(rows)),
            temperature=self.temperature,
        )

    def digest(self) -> str:
        """SHA-256 of the pairs, in hexadecimal."""
        return _digest([self.anchor_kind, str(self.temperature)], self.anchors, self.positives)


class GradedPairs:
    """Products that people graded for queries.

    Two things are learned at once: the order of a query's own products, and to tell a relevant product of a query from
    the products of the batch's other queries. On the search data the first alone learns the training queries by heart.

    Args:
        queries, passages: the texts of each pair. relevance: its grade, any finite number, more is better.
        relevant: from this grade on a product counts as relevant; the highest grade if None.
        temperature: what cosines are divided by.

    Raises:
        InvalidInput: if the lists differ in length, a text is blank, a grade is not finite, or no query has two
            different grades, so that there is no order to learn.
    """

    def __init__(
        self,
        queries: Sequence[str],
        passages: Sequence[str],
        relevance: Sequence[float],
        *,
        relevant: float | None = None,
        temperature: float = 0.05,
    ) -> None:
        _require_texts(queries=queries, passages=passages)
        self.queries, self.passages, self.temperature = tuple(queries), tuple(passages), temperature
        self.relevance = np.asarray(relevance, np.float32)
        if self.relevance.shape != (len(self.queries),):
            raise InvalidInput(f"relevance has shape {self.relevance.shape}; give one grade for each query text")
        if not np.isfinite(self.relevance).all():
            row = int(np.flatnonzero(~np.isfinite(self.relevance))[0])
            raise InvalidInput(f"the relevance of row {row} is {self.relevance[row]}; give finite grades")
        grades: dict[str, set[float]] = {}
        self._rows: dict[str, list[int]] = {}
        for row, query in enumerate(self.queries):
            grades.setdefault(query, set()).add(float(self.relevance[row]))
            self._rows.setdefault(query, []).append(row)
        if all(len(found) == 1 for found in grades.values()):
            raise InvalidInput("no query has products of different relevance; there is no order to learn")
        self.relevant = float(self.relevance.max()) if relevant is None else relevant

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.queries)

    def batches(self, size: int, generator: np.random.Generator) -> list[_Array]:
        """Every pair once: lists of about eight products of one query, several queries in a batch."""
        lists: list[_Array] = []
        for rows in self._rows.values():
            lists += np.array_split(generator.permutation(rows), max(1, round(len(rows) / _LIST)))
        order, several = generator.permutation(len(lists)), max(1, size // _LIST)
        return [
            np.concatenate([lists[number] for number in order[start : start + several]])
            for start in range(0, len(order), several)
        ]

    def loss(self, embed: Embed, rows: _Array) -> Tensor:
        """:func:`graded_loss` plus the contrastive loss of the relevant products among those of the whole batch."""
        names = list(dict.fromkeys(self.queries[row] for row in rows))
        place = {name: position for position, name in enumerate(names)}
        queries = embed(names, "query")
        passages = embed([self.passages[row] for row in rows], "passage")
        cosines = queries.float() @ passages.float().T / self.temperature
        group = torch.tensor([place[self.queries[row]] for row in rows], device=cosines.device)
        relevance = torch.from_numpy(self.relevance[rows]).to(cosines.device)
        own = group[None] == torch.arange(len(names), device=cosines.device)[:, None]
        loss = graded_loss(cosines, own, relevance)
        relevant = torch.nonzero(relevance >= self.relevant).squeeze(1)
        if len(names) > 1 and len(relevant):
            # A query's other products are no negatives; those of other queries may be, as nobody graded them for it.
            among = cosines[group[relevant]].masked_fill(own[group[relevant]], -torch.inf)
            among[torch.arange(len(relevant)), relevant] = cosines[group[relevant], relevant]
            loss = loss + F.cross_entropy(among, relevant) + F.cross_entropy(cosines.T[relevant], group[relevant])
        return loss

    def digest(self) -> str:
        """SHA-256 of the pairs, in hexadecimal."""
        grades = [f"{grade!r}" for grade in self.relevance.tolist()]
        return _digest([str(self.temperature), str(self.relevant)], self.queries, self.passages, grades)


def contrastive_loss(anchors: Tensor, positives: Tensor, together: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE with in-batch negatives (van den Oord et al. 2018), both ways: each side has to find the other.

    Args:
        anchors, positives: unit vectors float32 [pairs, dimensions]; row i of one belongs to row i of the other.
        together: bool [pairs, pairs], who is no negative of whom; the diagonal does not matter.
        temperature: what cosines are divided by.

    Returns:
        The mean cross entropy, a scalar.
    """
    cosines = anchors.float() @ positives.float().T / temperature
    own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    logits = cosines.masked_fill(together.to(cosines.device) & ~own, -torch.inf)
    wanted = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


def graded_loss(logits: Tensor, own: Tensor, relevance: Tensor) -> Tensor:
    """ListNet's top-one loss (Cao et al. 2007): a query's probability falls on its products as NDCG's gains say.

    Args:
        logits: float32 [queries, products]. own: bool [queries, products], whose list a product is in.
        relevance: float32 [products]; the gain is 2^relevance − 1.

    Returns:
        The mean cross entropy over queries less the entropy of the gains, a scalar, zero at best. A query whose gains
        are all alike pulls its products together; one without any gain counts nothing.
    """
    gains = torch.where(own, torch.exp2(relevance) - 1, 0.0).clamp(min=0.0)
    wanted = gains / gains.sum(1, keepdim=True).clamp(min=1e-6)
    found = F.log_softmax(logits.masked_fill(~own, -torch.inf), 1).masked_fill(~own, 0.0)
    divergence: Tensor = torch.special.xlogy(wanted, wanted) - wanted * found
    return divergence.sum(1).mean()


def _require_texts(**columns: Sequence[str]) -> None:
    (first, one), (second, other) = columns.items()
    if len(one) != len(other):
        raise InvalidInput(f"{len(one)} {first} but {len(other)} {second}; give as many of each")
    for name, texts in columns.items():
        for row, text in enumerate(texts):
            if not text.strip():
                raise InvalidInput(f"row {row} of the {name} is blank; leave such pairs out")


def _digest(*columns: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for column in columns:
        for text in column:
            part = text.encode()
            digest.update(len(part).to_bytes(8, "little") + part)
        digest.update(b"\xff" * 8)
    return digest.hexdigest()
