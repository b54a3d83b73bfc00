"""Tables of what queries speak of: colours, people, measures, and what is in food. English and Chinese.

Each thing has one English name, under which the words of all languages stand, so that a Chinese query finds what an
English catalogue calls a thing. Words are given as they are indexed: lower case, in the singular.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLOURS", "INGREDIENTS", "INGREDIENT_NAMES", "NOT_INGREDIENTS", "RECIPIENTS", "RECIPIENT_WORDS", "UNITS"]

#: Colour → the words for it. Those that are more often something to eat (orange, olive, lime) are left out.
COLOURS: Mapping[str, tuple[str, ...]] = {
    "red": ("red", "红", "红色"),
    "blue": ("blue", "navy", "蓝", "蓝色"),
    "green": ("green", "绿", "绿色"),
    "black": ("black", "黑", "黑色"),
    "white": ("white", "白", "白色"),
    "yellow": ("yellow", "黄", "黄色"),
    "pink": ("pink", "粉", "粉色", "粉红"),
    "purple": ("purple", "violet", "紫", "紫色"),
    "brown": ("brown", "棕", "棕色", "褐色"),
    "grey": ("grey", "gray", "灰", "灰色"),
    "silver": ("silver", "银", "银色"),
    "beige": ("beige", "ivory", "米色"),
    "turquoise": ("turquoise", "teal", "青", "青色"),
}

#: What somebody may want none of → the words by which a text shows that it is there.
INGREDIENTS: Mapping[str, tuple[str, ...]] = {
    "alcohol": (
        "alcohol", "alcoholic", "beer", "ale", "lager", "wine", "liquor", "vodka", "whiskey", "whisky",
        "rum", "gin", "tequila", "brandy", "champagne", "liqueur", "酒", "酒精",
        "啤酒", "红酒", "白酒", "葡萄酒",
    ),
    "nut": (
        "nut", "peanut", "almond", "cashew", "walnut", "pecan", "hazelnut", "pistachio", "macadamia", "praline",
        "坚果", "花生", "杏仁", "核桃", "腰果",
    ),
    "meat": (
        "meat", "beef", "pork", "ham", "bacon", "sausage", "chicken", "turkey", "veal", "lamb", "poultry", "salami",
        "pepperoni", "bologna", "lunchmeat", "steak", "rib", "hot dog", "肉", "牛肉", "猪肉", "鸡肉", "羊肉", "火腿",
    ),
    "pork": ("pork", "ham", "bacon", "猪肉", "火腿"),
    "fish": ("fish", "seafood", "tuna", "salmon", "shrimp", "crab", "cod", "tilapia", "鱼", "海鲜", "虾"),
    "dairy": (
        "dairy", "milk", "cheese", "butter", "yogurt", "cream", "margarine", "牛奶", "奶酪", "黄油", "酸奶", "奶油",
    ),
    "lactose": ("milk", "cheese", "butter", "yogurt", "cream", "牛奶", "奶酪", "酸奶", "乳糖"),
    "gluten": (
        "gluten", "wheat", "flour", "bread", "bun", "roll", "pasta", "noodle", "spaghetti", "macaroni", "cracker",
        "cookie", "cake", "pizza", "bagel", "muffin", "barley", "rye", "面筋", "小麦", "面粉", "面包", "面条",
    ),
    "egg": ("egg", "鸡蛋", "蛋"),
    "sugar": ("sugar", "syrup", "糖", "蔗糖"),
    "caffeine": ("caffeine", "coffee", "espresso", "cola", "energy drink", "咖啡", "咖啡因", "茶"),
    "fragrance": ("fragrance", "scent", "scented", "perfume", "香味", "香精"),
}  # fmt: skip

#: By which words a text says that it is free of all of that: "non-alcoholic", "dairy free".
INGREDIENT_NAMES: Mapping[str, tuple[str, ...]] = {
    "alcohol": ("alcohol", "alcoholic"),
    **{thing: (thing,) for thing in INGREDIENTS if thing != "alcohol"},
}

#: Words and names in which a word above stands for something else.
NOT_INGREDIENTS: Mapping[str, tuple[str, ...]] = {
    "alcohol": ("root beer", "ginger ale", "ginger beer", "wine vinegar", "rubbing alcohol"),
    "dairy": ("peanut butter", "apple butter", "coconut milk", "almond milk", "soy rice milk", "shave cream"),
    "lactose": ("peanut butter", "apple butter", "coconut milk", "almond milk", "soy rice milk", "shave cream"),
    "nut": ("donut", "coconut", "butternut"),
    "caffeine": ("decaffeinated", "decaf"),
}

#: Person or animal → the group that things for them are made for.
RECIPIENTS: Mapping[str, str] = {
    **dict.fromkeys(("daughter", "granddaughter", "niece", "girl"), "girl"),
    **dict.fromkeys(("son", "grandson", "nephew", "boy"), "boy"),
    **dict.fromkeys(("child", "kid", "grandchild"), "child"),
    **dict.fromkeys(("baby", "infant", "newborn", "toddler"), "baby"),
    **dict.fromkeys(("wife", "mother", "mom", "mum", "girlfriend", "sister", "aunt", "grandmother"), "woman"),
    **dict.fromkeys(("grandma", "woman", "lady"), "woman"),
    **dict.fromkeys(("husband", "father", "dad", "boyfriend", "brother", "uncle", "grandfather"), "man"),
    **dict.fromkeys(("grandpa", "man"), "man"),
    **dict.fromkeys(("dog", "puppy"), "dog"),
    **dict.fromkeys(("cat", "kitten"), "cat"),
}

#: Group → words in the texts of things that are made for it.
RECIPIENT_WORDS: Mapping[str, tuple[str, ...]] = {
    "girl": ("girl", "kid", "child", "children", "junior", "toy", "女孩", "女童", "儿童"),
    "boy": ("boy", "kid", "child", "children", "junior", "toy", "男孩", "男童", "儿童"),
    "child": ("kid", "child", "children", "junior", "toy", "儿童", "玩具"),
    "baby": ("baby", "infant", "toddler", "junior", "diaper", "婴儿", "宝宝"),
    "woman": ("woman", "women", "womens", "lady", "feminine", "女士", "女式", "女性"),
    "man": ("man", "men", "mens", "男士", "男式", "男性"),
    "dog": ("dog", "puppy", "狗", "狗粮", "宠物"),
    "cat": ("cat", "kitten", "猫", "猫粮", "宠物"),
}

#: Unit → its kind (mass in grams, volume in millilitres, pieces) and how many of those it is.
UNITS: Mapping[str, tuple[str, float]] = {
    "g": ("mass", 1.0),
    "kg": ("mass", 1000.0),
    "oz": ("mass", 28.3495),
    "lb": ("mass", 453.592),
    "ml": ("volume", 1.0),
    "cl": ("volume", 10.0),
    "l": ("volume", 1000.0),
    "fl oz": ("volume", 29.5735),
    "pt": ("volume", 473.176),
    "qt": ("volume", 946.353),
    "gal": ("volume", 3785.41),
    "ct": ("pieces", 1.0),
}
