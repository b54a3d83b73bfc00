"""BM25 over the catalogue's texts, with the scores worked out when the index is built."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.query.words import stems

__all__ = ["LexicalIndex"]

#: Saturation of a word's count and weight of a text's length, as Robertson and Zaragoza (2009) advise.
_SATURATION, _LENGTH_WEIGHT = 1.2, 0.75


class LexicalIndex:
    """An inverted index: word → rows that have it, each with what the word adds to the row's score.

    BM25 (Robertson et al. 1994), its scores computed at indexing time as in BM25S (Lù 2024), so that a query is a sum
    over the rows of its words. Immutable, so threads may share it.

    Args:
        texts: in row order.
        known: see :meth:`beside`.
    """

    __slots__ = ("_gains", "_known", "_mean_length", "_rows", "_size", "_starts", "_telling", "vocabulary")

    def __init__(self, texts: Iterable[str], known: LexicalIndex | None = None) -> None:
        self.vocabulary: dict[str, int] = {}
        """Word → its number."""
        self._known = known
        lengths, keys, counts = self._count(texts)
        self._size = len(lengths)
        of_word, rows = np.divmod(keys, max(1, self._size))
        frequencies = np.bincount(of_word, minlength=len(self.vocabulary))
        self._starts = np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int32)
        if known is None:
            self._mean_length = float(lengths.mean()) if lengths.any() else 1.0
            self._telling = _telling(self._size, frequencies).astype(np.float32)
        else:
            self._mean_length = known._mean_length
            self._telling = np.array([known.telling(word) for word in self.vocabulary], np.float32)
        damping = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * lengths / self._mean_length)
        self._rows = rows.astype(np.int32)
        self._gains = (self._telling[of_word] * counts / (counts + damping[rows])).astype(np.float32)

    def beside(self, texts: Iterable[str]) -> LexicalIndex:
        """The index of further texts, which takes from this one how telling a word is.

        Scores of both are comparable, as if the few were among the many.
        """
        return LexicalIndex(texts, self)

    def _count(self, texts: Iterable[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """How many words each text has; word and row of each pair that occurs, as one number; and how often it does."""
        numbers, lengths = array("i"), array("i")
        number_of = self.vocabulary
        for text in texts:
            before = len(numbers)
            numbers.extend([number_of.setdefault(word, len(number_of)) for word in stems(text)])
            lengths.append(len(numbers) - before)
        counted = np.array(lengths, np.int64)
        rows = np.repeat(np.arange(len(counted)), counted)
        return counted, *np.unique(np.array(numbers, np.int64) * max(1, len(counted)) + rows, return_counts=True)

    def __len__(self) -> int:
        """How many texts there are."""
        return self._size

    def telling(self, word: str) -> float:
        """How telling a word is: log of how many texts there are for each that has it; if none has, as if one had."""
        if self._known is not None:
            return self._known.telling(word)
        number = self.vocabulary.get(word)
        return float(_telling(self._size, np.ones(1))[0] if number is None else self._telling[number])

    def frequency(self, word: str) -> int:
        """In how many texts a word occurs."""
        number = self.vocabulary.get(word)
        return 0 if number is None else int(self._starts[number + 1] - self._starts[number])

    def rows(self, word: str) -> NDArray[np.int32]:
        """The rows whose text has a word, ascending."""
        number = self.vocabulary.get(word)
        return self._rows[:0] if number is None else self._rows[self._starts[number] : self._starts[number + 1]]

    def rows_with_all(self, words: Sequence[str]) -> NDArray[np.int32]:
        """The rows whose text has all of several words, ascending; of no words, none."""
        found = sorted((self.rows(word) for word in words), key=len)
        if not found:
            return self._rows[:0]
        common = found[0]
        for others in found[1:]:
            common = common[np.isin(common, others, assume_unique=True)]
        return common

    def scores(self, words: Iterable[str]) -> NDArray[np.float32]:
        """How well each text fits some words, float32 ``[size]`` from 0 to 1.

        BM25, divided by what a text would get that has every word countless times: so a score is the share of the
        query that a text answers, weighted by how telling its words are. Words that no text has count as well; a query
        that is mostly unknown therefore never scores high.
        """
        scores = np.zeros(self._size, np.float32)
        most = 0.0
        for word in dict.fromkeys(words):
            most += self.telling(word)
            number = self.vocabulary.get(word)
            if number is not None:
                start, end = self._starts[number], self._starts[number + 1]
                # Each row comes once for a word, so adding by index loses nothing.
                scores[self._rows[start:end]] += self._gains[start:end]
        if most > 0:
            scores /= np.float32(most)
        return scores


def _telling(size: int, frequencies: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse document frequency in the form that is never negative: log(1 + (N - n + 0.5) / (n + 0.5))."""
    found: NDArray[np.float64] = np.log1p((size - frequencies + 0.5) / (frequencies + 0.5))
    return found
