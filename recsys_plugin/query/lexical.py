"""BM25 over the catalogue's texts, with the scores worked out when the index is built."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Self

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
    """

    __slots__ = ("_ends", "_gains", "_inverse_frequencies", "_mean_length", "_rows", "_size", "_starts", "vocabulary")

    def __init__(
        self,
        vocabulary: dict[str, int],
        starts: NDArray[np.int64],
        rows: NDArray[np.int32],
        gains: NDArray[np.float32],
        inverse_frequencies: NDArray[np.float32],
        mean_length: float,
        size: int,
    ) -> None:
        self.vocabulary = vocabulary
        """Word → its number."""
        self._starts, self._ends = starts[:-1].tolist(), starts[1:].tolist()
        self._rows, self._gains = rows, gains
        self._inverse_frequencies = inverse_frequencies
        self._mean_length = mean_length
        self._size = size

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """The index of texts, in row order."""
        return cls._built(texts, None)

    def beside(self, texts: Sequence[str]) -> Self:
        """The index of further texts, which takes from this one how much a word tells.

        Scores of both are comparable, as if the few had been among the many; a word that only they have is as telling
        as one that a single text has.
        """
        return self._built(texts, self)

    @classmethod
    def _built(cls, texts: Sequence[str], known: Self | None) -> Self:
        vocabulary: dict[str, int] = {}
        numbers = array("q")
        lengths = np.zeros(len(texts), np.int64)
        # Titles of a catalogue repeat each other, in whole or in part.
        seen: dict[str, array[int]] = {}
        for row, text in enumerate(texts):
            found = seen.get(text)
            if found is None:
                found = array("q", [vocabulary.setdefault(word, len(vocabulary)) for word in stems(text)])
                seen[text] = found
            numbers += found
            lengths[row] = len(found)
        del seen
        # One posting for each word of a row, with the word's count there.
        keys = np.frombuffer(numbers, np.int64) * max(1, len(texts)) + np.repeat(np.arange(len(texts)), lengths)
        keys, counts = np.unique(keys, return_counts=True)
        of_word, rows = np.divmod(keys, max(1, len(texts)))
        frequencies = np.bincount(of_word, minlength=len(vocabulary))
        starts = np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64)
        if known is None:
            mean = float(lengths.mean()) if lengths.any() else 1.0
            telling = np.log1p((len(texts) - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
        else:
            mean = known._mean_length
            rare = np.float32(np.log1p((known._size + 0.5) / 1.5))
            telling = np.array(
                [known.inverse_frequency(word, otherwise=float(rare)) for word in vocabulary], np.float32
            )
        damping = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * lengths / mean)
        gains = telling[of_word] * (counts / (counts + damping[rows])) if len(keys) else np.zeros(0)
        postings = rows.astype(np.int32), gains.astype(np.float32)
        return cls(vocabulary, starts, *postings, telling, mean, len(texts))

    def __len__(self) -> int:
        """How many texts there are."""
        return self._size

    def inverse_frequency(self, word: str, *, otherwise: float = 0.0) -> float:
        """How telling a word is: log of how many texts there are for each that has it."""
        number = self.vocabulary.get(word)
        return otherwise if number is None else float(self._inverse_frequencies[number])

    def frequency(self, word: str) -> int:
        """In how many texts a word occurs."""
        number = self.vocabulary.get(word)
        return 0 if number is None else self._ends[number] - self._starts[number]

    def rows(self, word: str) -> NDArray[np.int32]:
        """The rows whose text has a word, ascending."""
        number = self.vocabulary.get(word)
        return self._rows[:0] if number is None else self._rows[self._starts[number] : self._ends[number]]

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
        query that a text answers, weighted by how telling its words are. Words that no text has count as well, each as
        telling as a word that a single text has; a query that is mostly unknown therefore never scores high.
        """
        scores = np.zeros(self._size, np.float32)
        most, unknown = 0.0, float(np.log1p((self._size + 0.5) / 1.5))
        for word in dict.fromkeys(words):
            number = self.vocabulary.get(word)
            if number is None:
                most += unknown
                continue
            most += float(self._inverse_frequencies[number])
            start, end = self._starts[number], self._ends[number]
            # Each row comes once for a word, so adding by index loses nothing.
            scores[self._rows[start:end]] += self._gains[start:end]
        if most > 0:
            scores /= np.float32(most)
        return scores
