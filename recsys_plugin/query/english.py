"""English: see :class:`~recsys_plugin.query.language.Language`."""

from __future__ import annotations

import re

from recsys_plugin.query.language import Language
from recsys_plugin.query.things import RECIPIENTS

__all__ = ["ENGLISH"]

_NUMBER_WORDS = {
    word: value
    for words, values in (
        ("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen", range(1, 16)),
        ("sixteen seventeen eighteen nineteen twenty", range(16, 21)),
        ("thirty forty fifty sixty seventy eighty ninety hundred", range(30, 101, 10)),
    )
    for word, value in zip(words.split(), values, strict=True)
}
_NUMBER = rf"(?:\d{{1,3}}(?:,\d{{3}})+(?:\.\d{{1,2}})?|\d{{1,6}}(?:[.,]\d{{1,2}})?|\b(?:{'|'.join(_NUMBER_WORDS)})\b)"
_SIGN = r"[£$€¥]"
_CURRENCY = rf"(?:{_SIGN}|(?:dollars?|bucks?|euros?|pounds?|quid|usd|gbp|eur|cents?|pence)\b)"
_UNITS = {
    "g": "g gram grams gr", "kg": "kg kilo kilos kilogram kilograms", "oz": "oz ounce ounces",
    "lb": "lb lbs pound pounds", "ml": "ml milliliter milliliters millilitre millilitres", "cl": "cl",
    "l": "l lt ltr liter liters litre litres", "pt": "pt pint pints", "qt": "qt quart quarts",
    "gal": "gal gallon gallons ga", "ct": "ct count pack packs pk pc pcs piece pieces",
}  # fmt: skip
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()} | {
    "fl oz": "fl oz", "fluid ounce": "fl oz", "fluid ounces": "fl oz", "floz": "fl oz",
}  # fmt: skip
_UNIT = "|".join(sorted(_UNIT_OF, key=len, reverse=True))
#: After a number, these say that it is no price; "pounds" may be one.
_OTHER_UNIT = "|".join(word for word in _UNIT_OF if word not in ("pound", "pounds"))
_NO_PRICE = rf"(?!\d|[.,]\d)(?!\s*-?\s*(?:%|(?:percent|years?|calories|watts?|inch(?:es)?|items?|{_OTHER_UNIT})\b))"


def _price(group: str) -> str:
    return rf"{_SIGN}?\s?(?P<{group}>{_NUMBER}){_NO_PRICE}(?:\s?{_CURRENCY})?"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


_MOST = (
    r"(?:(?:no|not) more than|not (?:over|above|exceeding)|(?:priced? )?(?:under|below|beneath|within)|less than|"
    r"cheaper than|lower than|at most|up to|max(?:imum)?(?: of)?|<=?)"
)
_LEAST = (
    r"(?:(?:no|not) (?:less|cheaper|lower) than|not (?:under|below)|(?:priced? )?(?:over|above)|more than|"
    r"higher than|at least|min(?:imum)?(?: of)?|starting (?:at|from)|>=?)"
)


def _number(text: str) -> float | None:
    if text in _NUMBER_WORDS:
        return float(_NUMBER_WORDS[text])
    plain = re.sub(r",(?=\d{3}(?!\d))", "", text).replace(",", ".")
    return float(plain)


_RECIPIENT_WORDS = {word: word for word in RECIPIENTS} | {
    "children": "child", "women": "woman", "men": "man", "ladies": "lady", "babies": "baby", "puppies": "puppy",
    "wives": "wife", "mummy": "mum", "mommy": "mom", "daddy": "dad", "granny": "grandma",
    **{f"{word}s": word for word in RECIPIENTS if not word.endswith(("y", "man", "child"))},
    "boys": "boy",
}  # fmt: skip

_STOP_WORDS = (
    "a an and any are as at be best but buy by can could do does find for from get give good great has have help i if "
    "in is it its like looking me my need new nice of on or our please recommend search show some somebody someone "
    "something stuff that the their them there these thing things this those to us want we what which who will with "
    "would you your"
)
_KEYWORDS = (
    "without excluding except under below less than cheaper most maximum over above more least minimum between around "
    "about approximately cheap cheapest inexpensive expensive affordable budget luxury price priced brand category "
    "section department aisle free only made dollar dollars pounds euros cents year years old gift present birthday "
    "kitchen home"
)

ENGLISH = Language(
    applies=_pattern(r"[a-z\d]"),
    number=_number,
    prices=(
        ("between", _pattern(rf"\b(?:between|from)\s+{_price('a')}\s*(?:and|to|-)\s*{_price('b')}")),
        ("between", _pattern(rf"{_SIGN}\s?(?P<a>{_NUMBER})\s*(?:-|to)\s*{_price('b')}")),
        ("between", _pattern(rf"(?<![\d.])(?P<a>{_NUMBER})\s*(?:-|to)\s*(?P<b>{_NUMBER}){_NO_PRICE}\s?{_CURRENCY}")),
        ("highest", _pattern(rf"(?<!\w){_MOST}\s*{_price('a')}")),
        ("lowest", _pattern(rf"(?<!\w){_LEAST}\s*{_price('a')}")),
        ("highest", _pattern(rf"(?<![\w.]){_price('a')}\s+(?:or (?:less|under|below|cheaper)|max(?:imum)?|tops)\b")),
        ("lowest", _pattern(rf"(?<![\w.]){_price('a')}\s+(?:or more|and (?:up|over|above)|min(?:imum)?)\b")),
        ("around", _pattern(rf"(?<!\w)(?:around|about|approximately|roughly|circa|~)\s*{_price('a')}")),
    ),
    cents=_pattern(r"(?:cents?|pence)\b"),
    cheap=_pattern(
        r"\b(?:not (?:(?:too|very|so|that) )?(?:expensive|pricey)|(?:the )?cheap(?:er|est)?|inexpensive|affordable|"
        r"budget(?:-friendly| friendly)?|low[- ](?:cost|priced?)|bargains?)\b"
    ),
    expensive=_pattern(r"\b(?:(?:most )?expensive|pricey|luxur(?:y|ious)|high[- ]end|upscale|upmarket)\b"),
    excludes=_pattern(
        r"\b(?:without|w/o|excluding|exclude|excepting|except(?: for)?|but (?:not|no)|nothing with|not|no|non|minus|"
        r"avoid(?:ing)?|(?:is|are|do|does|was)n'?t(?: (?:want|like|contain|have|include))?|is not|are not|"
        r"free (?:of|from)|never)\b[\s-]*"
        r"(?:(?:any|the|a|an|in|too|with|containing|contains?|made|of|from|have|having|added|artificial|much|extra)\s+)*"
    ),
    joins=_pattern(r"\s*(?:,\s*)?\b(?:or|nor|and)\s+(?:(?:any|no|not|without|added|artificial)\s+)*"),
    free_of=_pattern(
        r"\b(?!(?:hands|toll|duty|care|buy|get|one|for|are|is|with|and|or|the|a|worry|shipping)\b)"
        r"(?P<target>[a-z]+)[\s-]free\b(?!\s+(?:of|from|range|shipping|delivery|gift|sample))"
    ),
    in_category=_pattern(
        r"\b(?:(?:in|from)\s+(?:the\s+)?(?P<target>[a-z/&, -]{2,40}?)\s+(?:category|section|department|aisle)\b|"
        r"category:?\s+(?P<other>[a-z/&, -]{2,40}))"
    ),
    made_by=_pattern(r"\b(?:(?:made )?by|brand:?)\s+(?P<target>[^,;]{2,40})"),
    recipient=_pattern(
        r"\bfor\s+(?:(?:my|our|his|her|their|your|a|an|the|some)\s+)?(?:[a-z]+\s+){0,2}?"
        rf"(?P<target>{'|'.join(sorted(_RECIPIENT_WORDS, key=len, reverse=True))})\b(?:'s)?"
    ),
    recipients=_RECIPIENT_WORDS,
    age=_pattern(
        r"\b(?:for\s+(?:(?:my|our|a|an|the|his|her)\s+)?)?(?P<a>\d{1,2})[\s-]*(?:(?:years?|yrs?)[\s-]*olds?|y/?o)\b"
    ),
    size=_pattern(rf"(?<![\w.])(?P<a>\d{{1,5}}(?:[.,]\d{{1,3}})?)\s*-?\s*(?P<unit>{_UNIT})\b"),
    units=_UNIT_OF,
    ingredients={
        "nut": "nut", "peanut": "nut", "alcohol": "alcohol", "booze": "alcohol", "meat": "meat", "pork": "pork",
        "fish": "fish", "seafood": "fish", "dairy": "dairy", "milk": "dairy", "lactose": "lactose",
        "gluten": "gluten", "wheat": "gluten", "egg": "egg", "sugar": "sugar", "caffeine": "caffeine",
        "fragrance": "fragrance", "perfume": "fragrance", "scent": "fragrance",
    },
    stop_words=frozenset(_STOP_WORDS.split()),
    keywords=frozenset(
        (*_STOP_WORDS.split(), *_KEYWORDS.split(), *_RECIPIENT_WORDS, *_NUMBER_WORDS, *_UNIT_OF)
    ),
)  # fmt: skip
