"""BM25 by its formula, spelling by comparing all words, and how texts become words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_plugin.query.lexical import LexicalIndex
from recsys_plugin.query.spelling import SpellingIndex, edit_distance
from recsys_plugin.query.words import normalised, singular, stems

WORDS = st.sampled_from(["tea", "cup", "pot", "mug", "jar", "green"])
TEXTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=8)
LETTERS = st.text("abcdeé", min_size=1, max_size=9)


def bm25(texts: list[str], query: list[str]) -> list[float]:
    """By the formula, k1 = 1.2, b = 0.75 and idf = log(1 + (N - n + 0.5) / (n + 0.5)); as a share of the most."""
    documents = [text.split() for text in texts]
    mean = sum(map(len, documents)) / len(documents) or 1.0
    asked = list(dict.fromkeys(query))
    telling = {}
    for word in asked:
        having = max(1, sum(word in document for document in documents))
        telling[word] = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
    most = sum(telling.values())
    scores = []
    for document in documents:
        score = 0.0
        for word in asked:
            count = document.count(word)
            score += telling[word] * count / (count + 1.2 * (1 - 0.75 + 0.75 * len(document) / mean)) if count else 0.0
        scores.append(score / most if most else 0.0)
    return scores


@given(TEXTS, st.lists(WORDS, max_size=4))
def test_scores_are_those_of_the_formula(texts: list[str], query: list[str]) -> None:
    index = LexicalIndex(texts)
    np.testing.assert_allclose(index.scores(query), bm25(texts, query), atol=1e-6)
    assert all(0 <= score <= 1 for score in index.scores(query).tolist())
    assert index.rows_with_all(query).tolist() == [
        row for row, text in enumerate(texts) if query and set(query) <= set(text.split())
    ]


@given(TEXTS, TEXTS, st.lists(WORDS, max_size=4))
def test_texts_beside_others_score_as_if_among_them(many: list[str], few: list[str], query: list[str]) -> None:
    index = LexicalIndex(many)
    # A text that both have scores alike in both.
    beside = index.beside([*few, *many]).scores(query)
    np.testing.assert_allclose(beside[len(few) :], index.scores(query), atol=1e-6)


def test_no_texts_and_no_words() -> None:
    assert LexicalIndex([]).scores(["tea"]).tolist() == []
    assert LexicalIndex(["", "tea"]).scores([]).tolist() == [0, 0]
    assert LexicalIndex(["", "tea"]).scores(["unknown"]).tolist() == [0, 0]


def distance(first: str, second: str) -> int:
    """Optimal string alignment, the whole table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row in range(len(first) + 1):
        for column in range(len(second) + 1):
            if not row or not column:
                table[row][column] = row + column
                continue
            changed = first[row - 1] != second[column - 1]
            best = min(table[row - 1][column] + 1, table[row][column - 1] + 1, table[row - 1][column - 1] + changed)
            if row > 1 and column > 1 and first[row - 1] == second[column - 2] and first[row - 2] == second[column - 1]:
                best = min(best, table[row - 2][column - 2] + 1)
            table[row][column] = best
    return table[-1][-1]


@given(LETTERS, LETTERS, st.integers(0, 3))
def test_edit_distance(first: str, second: str, most: int) -> None:
    assert edit_distance(first, second, most) == min(distance(first, second), most + 1)


@given(st.lists(LETTERS, max_size=12), LETTERS)
def test_the_nearest_word_is_found(words: list[str], typed: str) -> None:
    found = SpellingIndex(dict.fromkeys(words, 1)).nearest(typed)
    most = 0 if len(typed) < 5 else 2 if len(typed) >= 8 else 1
    near = {
        word: distance(typed, word)
        for word in words
        if len(word) >= 4 and distance(typed, word) <= most and (word[0] == typed[0] or word[:2] == typed[1::-1])
    }
    assert found == (min(near, key=lambda word: (near[word], word)) if near and most else None)


def test_the_frequent_word_wins_and_short_ones_are_left_alone() -> None:
    index = SpellingIndex({"cheese": 9, "cheesy": 50, "milk": 5})
    assert index.nearest("chees") == "cheesy"
    assert index.nearest("chesse") == "cheese"
    assert index.nearest("mlik") is None
    assert index.nearest("x" * 10_000) is None
    assert index.nearest("123456") is None


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("Berries, dishes & GLASSES", ["berry", "dish", "glass"]),
        ("Café 18.25 oz", ["cafe", "18.25", "oz"]),
        ("bus gas socks", ["bus", "gas", "sock"]),
        ("无糖可乐", ["无糖", "糖可", "可乐"]),
        ("茶", ["茶"]),
        ("XR-200 ２L", ["xr", "200", "2l"]),
        ("🫖 \x00'; DROP--", ["drop"]),
        ("", []),
    ],
)
def test_words_of_texts(text: str, wanted: list[str]) -> None:
    assert stems(text) == wanted


def test_normalising_and_singulars() -> None:
    assert normalised("ÀÉ Ｆull") == "ae full"
    assert [singular(word) for word in ("beers", "glass", "tomatoes", "boxes", "is", "ties")] == [
        "beer", "glass", "tomato", "box", "is", "ty"
    ]  # fmt: skip
