"""From text to the words by which queries and items are compared."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["atoms", "is_cjk", "normalised", "singular", "stems", "words"]

#: Chinese characters, and Japanese and Korean syllables: text without spaces between words.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_RUN_OF_CJK = re.compile(f"[{_CJK}]+")
#: A number with its decimals, a run of such characters, or a run of letters and digits.
_TOKEN = re.compile(rf"\d+[.,]\d+|[{_CJK}]+|(?:(?![{_CJK}])[^\W_])+")
_MARKS = re.compile(r"[\u0300-\u036f]")


def normalised(text: str) -> str:
    """Compatibility forms, accents and capitals taken away: ``Café ２`` becomes ``cafe 2``."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _MARKS.sub("", decomposed))


def is_cjk(word: str) -> bool:
    """Whether a word is a run of Chinese, Japanese or Korean characters."""
    return bool(_RUN_OF_CJK.fullmatch(word))


def words(text: str) -> list[str]:
    """The words of a normalised text, in order; a run of CJK characters is one word."""
    return _TOKEN.findall(text)


def singular(word: str) -> str:
    """An English word without the plural's ending: the S-stemmer of Harman (1991), "How effective is suffixing?"."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and word.endswith(("ches", "shes", "xes", "zes", "sses", "oes")):
        return word[:-2]
    return word[:-1]


def atoms(text: str) -> list[str]:
    """The smallest parts of a text that mean something: words in the singular, and CJK characters one by one."""
    found: list[str] = []
    for word in words(normalised(text)):
        if not word.isascii() and is_cjk(word):
            found += word
        else:
            found.append(singular(word))
    return found


def stems(text: str) -> list[str]:
    """What a text is indexed by: its words in the singular, and of a run of CJK characters each pair of neighbours.

    Pairs stand for words there, since text without spaces would need a dictionary to be cut into them; a single
    character stands for itself.
    """
    found: list[str] = []
    for word in words(normalised(text)):
        if word.isascii() or not is_cjk(word):
            found.append(singular(word.replace(",", ".")))
        elif len(word) == 1:
            found.append(word)
        else:
            found += [word[place : place + 2] for place in range(len(word) - 1)]
    return found
