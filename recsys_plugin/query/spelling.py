"""Words that the catalogue lacks, and the nearest that it has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys_plugin.query.words import is_cjk

__all__ = ["SpellingIndex", "edit_distance"]

#: Shorter words are too near to each other, and taken as they are; of words as long as the second two letters may be
#: wrong.
_SHORTEST, _LONG = 5, 8
#: Letters are counted in so many buckets; that two share one can only make words seem nearer than they are.
_BUCKETS = 32


class SpellingIndex:
    """The words that exist, with their letters counted, so that few are left to compare letter by letter.

    An edit changes the counts of a word's letters by 2 at most. So whatever is within an edit distance of d differs by
    2 d at most in its counts, and all words are compared in one pass over a matrix: exact, and a few bytes a word,
    where an index of deletions (SymSpell) takes hundreds.

    Args:
        words: the words that exist, each with how often it occurs.
    """

    __slots__ = ("_counts", "_frequencies", "_lengths", "_words")

    def __init__(self, words: Mapping[str, int]) -> None:
        chosen = sorted(
            (word for word in words if len(word) >= _SHORTEST - 1 and word.isalpha() and not is_cjk(word)), key=len
        )
        self._words = chosen
        self._frequencies = np.array([words[word] for word in chosen], np.int64)
        self._lengths = np.array([len(word) for word in chosen], np.int64)
        self._counts = _letter_counts(chosen)

    def nearest(self, word: str) -> str | None:
        """The word that was probably meant; ``None`` if none is near enough.

        Of a word of 5 to 7 letters one may be wrong, of a longer one two (Damerau-Levenshtein distance: one that is
        missing, too much, another, or swapped with its neighbour), but not the first, unless it was swapped with the
        second. Of several the nearest counts, then the most frequent, then the first in the alphabet.
        """
        if len(word) < _SHORTEST or not word.isalpha() or is_cjk(word):
            return None
        most = 2 if len(word) >= _LONG else 1
        start, end = np.searchsorted(self._lengths, [len(word) - most, len(word) + most + 1])
        differences = np.abs(self._counts[start:end] - _letter_counts([word])).sum(axis=1)
        found: list[tuple[int, int, str]] = []
        for place in np.flatnonzero(differences <= 2 * most).tolist():
            other = self._words[start + place]
            if other[0] == word[0] or other[:2] == word[1::-1]:
                distance = edit_distance(word, other, most)
                if distance <= most:
                    found.append((distance, -int(self._frequencies[start + place]), other))
        return min(found)[2] if found else None


def _letter_counts(words: list[str]) -> NDArray[np.int8]:
    """How often each word has the letters of each bucket, int8 ``[words, buckets]``."""
    lengths = np.array([len(word) for word in words], np.int64)
    letters = np.frombuffer("".join(words).encode("utf-32-le"), "<u4") % _BUCKETS
    keys = np.repeat(np.arange(len(words)), lengths) * _BUCKETS + letters
    counts = np.bincount(keys, minlength=len(words) * _BUCKETS).clip(max=127)
    return counts.astype(np.int8).reshape(len(words), _BUCKETS)


def edit_distance(first: str, second: str, most: int) -> int:
    """How many edits lead from one word to the other; ``most + 1`` if more than ``most``.

    An edit takes a letter away, adds one, puts another, or swaps two neighbours, and no letter is edited twice: optimal
    string alignment, after Damerau (1964).
    """
    before_last: list[int] = []
    last = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        line = [row]
        for column, other in enumerate(second, start=1):
            edits = min(last[column] + 1, line[column - 1] + 1, last[column - 1] + (letter != other))
            if row > 1 and column > 1 and letter == second[column - 2] and first[row - 2] == other:
                edits = min(edits, before_last[column - 2] + 1)
            line.append(edits)
        if min(line) > most:
            return most + 1
        before_last, last = last, line
    return min(last[-1], most + 1)
