"""Chinese: see :class:`~recsys_plugin.query.language.Language`."""

from __future__ import annotations

import re

from recsys_plugin.query.language import Language

__all__ = ["CHINESE"]

_DIGITS = {digit: value for value, digit in enumerate("零一二三四五六七八九")} | {"两": 2}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_NUMBER = r"(?:\d{1,6}(?:\.\d{1,2})?|[零一二两三四五六七八九十百千]{1,7})"
_CURRENCY = r"(?:元|块钱|块|人民币|美元|英镑|欧元|镑)"
_PRICE = rf"[¥$£€]?\s*(?P<a>{_NUMBER})(?![\d.%])\s*{_CURRENCY}?"


def _number(text: str) -> float | None:
    if text[0].isdigit():
        return float(text)
    total, digit = 0, 0
    for character in text:
        if character in _PLACES:
            total, digit = total + (digit or 1) * _PLACES[character], 0
        else:
            digit = _DIGITS[character]
    return float(total + digit)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


_RECIPIENTS = {
    "女儿": "daughter", "女孩": "girl", "儿子": "son", "男孩": "boy", "孩子": "child", "小孩": "child", "儿童": "child",
    "宝宝": "baby", "婴儿": "baby", "妻子": "wife", "老婆": "wife", "太太": "wife", "妈妈": "mother", "母亲": "mother",
    "女朋友": "girlfriend", "女友": "girlfriend", "奶奶": "grandmother", "丈夫": "husband", "老公": "husband",
    "爸爸": "father", "父亲": "father", "男朋友": "boyfriend", "男友": "boyfriend", "爷爷": "grandfather",
    "狗狗": "dog", "狗": "dog", "猫咪": "cat", "猫": "cat",
}  # fmt: skip
_RECIPIENT = "|".join(sorted(_RECIPIENTS, key=len, reverse=True))
_UNITS = {
    "克": "g",
    "千克": "kg",
    "公斤": "kg",
    "毫升": "ml",
    "升": "l",
    "盎司": "oz",
    "磅": "lb",
    "个": "ct",
    "片": "ct",
}
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_STOP_WORDS = "的 了 我 要 想 买 给 和 有 是 请 帮 找 一个 一些 我想 想买 我要"
_INGREDIENTS = {
    "酒精": "alcohol", "酒": "alcohol", "坚果": "nut", "花生": "nut", "肉": "meat", "猪肉": "pork", "鱼": "fish",
    "海鲜": "fish", "牛奶": "dairy", "奶": "dairy", "乳糖": "lactose", "麸质": "gluten", "小麦": "gluten",
    "鸡蛋": "egg", "蛋": "egg", "糖": "sugar", "咖啡因": "caffeine", "香精": "fragrance",
}  # fmt: skip
_INGREDIENT = "|".join(sorted(_INGREDIENTS, key=len, reverse=True))

CHINESE = Language(
    applies=_pattern("[\u4e00-\u9fff]"),
    number=_number,
    prices=(
        (
            "between",
            _pattern(
                rf"(?P<a>{_NUMBER})\s*{_CURRENCY}?\s*(?:到|至|-|~|—)\s*(?P<b>{_NUMBER})\s*"
                rf"(?:{_CURRENCY}(?:之间)?|之间)"
            ),
        ),
        ("highest", _pattern(rf"(?:不超过|不高于|不多于|低于|少于|小于|最多|至多|不到)\s*{_PRICE}")),
        ("highest", _pattern(rf"{_PRICE}\s*(?:以下|以内|之内|之下|以里)")),
        ("lowest", _pattern(rf"(?:不低于|不少于|超过|高于|多于|大于|至少|最少)\s*{_PRICE}")),
        ("lowest", _pattern(rf"{_PRICE}\s*(?:以上|之上|起)")),
        ("around", _pattern(rf"(?:大约|大概|约)\s*{_PRICE}|(?P<b>{_NUMBER})\s*{_CURRENCY}?\s*(?:左右|上下)")),
    ),
    cheap=_pattern("不(?:太)?贵|便宜|实惠|低价|廉价|平价|划算"),
    expensive=_pattern("昂贵|高档|高端|奢华|贵的"),
    excludes=_pattern(r"(?:不要|不含|不带|不加|不是|没有|除了|排除|别(?![墅针人])|非(?![常洲]))(?:有|含|要|任何)?"),
    joins=_pattern("(?:和|或者|或|、|以及)"),
    recipient=_pattern(
        rf"(?:送给|给|送|适合|为)(?:我|我的|我们|他|她|我家)?(?:的|家)?(?P<target>{_RECIPIENT})(?:用|吃|喝|穿|玩)?的?"
        rf"|(?P<other>{_RECIPIENT})(?:用|吃|喝|穿|玩)的"
    ),
    recipients=_RECIPIENTS,
    size=_pattern(rf"(?<![\d.])(?P<a>\d{{1,5}}(?:\.\d{{1,3}})?)\s*(?P<unit>{_UNIT})"),
    units=_UNITS,
    ingredients=_INGREDIENTS,
    free_of=_pattern(rf"(?:无|免|零)(?P<target>{_INGREDIENT})"),
    stop_words=frozenset(_STOP_WORDS.split()),
)  # fmt: skip
