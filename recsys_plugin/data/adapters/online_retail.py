"""UCI Online Retail II: two years of a British gift wholesaler, from a local file or downloaded from UCI."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pyarrow as pa

from recsys_plugin.data.adapters import Places, Report, SourceTables
from recsys_plugin.data.adapters._download import download_member
from recsys_plugin.data.adapters._text import recent_median_price, sentence_case
from recsys_plugin.data.files import RawTable, read_csv
from recsys_plugin.errors import ConfigurationError, DataError, InvalidInput

__all__ = ["OnlineRetail"]

_URL = "https://archive.ics.uci.edu/static/public/502/online+retail+ii.zip"
_MEMBER = "online_retail_II.xlsx"
_STEM = "online_retail_ii"
_SUFFIXES = (".parquet", ".xlsx", ".csv")

#: The names of the first edition (left) and of the second.
_RENAMED = {"Invoice": "InvoiceNo", "Price": "UnitPrice", "Customer ID": "CustomerID"}
_COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)

_DESCRIPTION = (
    "UCI Online Retail II: invoices of a British online wholesaler of gifts, December 2009 to December 2011. Purchases "
    "and returns; no clicks, no impressions, no categories."
)
_CITATION = (
    "Chen, D., Sain, S. L., Guo, K. (2012). Data mining for the online retail industry: a case study of RFM "
    "model-based customer segmentation using data mining. Journal of Database Marketing & Customer Strategy "
    "Management 19(3). UCI data set 502, CC BY 4.0"
)


@dataclass(frozen=True, slots=True)
class OnlineRetail:
    """Clean purchases become events; returns are kept for the users and items that those have.

    ``url`` and ``timeout`` (seconds without a byte) are for the download, which happens only when no file is found.
    """

    url: str = _URL
    timeout: float = 30.0
    version: int = 1

    name: ClassVar[str] = "online_retail"

    def locate(self, places: Places, report: Report) -> tuple[Path, ...]:
        """The user's path, else the folder of data sets, else an earlier download, else a download now.

        Raises:
            InvalidInput: if the user's path has no such file: nothing is downloaded in its stead.
            ConfigurationError: if the folder of data sets does not exist.
            ServiceUnavailable: if the download fails.
        """
        if places.path is not None:
            found = places.path if places.path.is_file() else _find(places.path)
            if found is None:
                raise InvalidInput(
                    f"no {_STEM} (.parquet, .xlsx or .csv) at {places.path}; name the file or its folder"
                )
            return (found,)
        if places.data is not None and not places.data.is_dir():
            raise ConfigurationError(f"RECSYS_DATA={places.data} is not a folder; mend or unset it")
        for folder in (places.data, places.downloads):
            if folder is not None and (found := _find(folder)) is not None:
                return (found,)
        advice = "download it by hand and pass --data FILE, or use --source complete_journey, which needs no network"
        return (download_member(self.url, _MEMBER, places.downloads, self.timeout, report, advice),)

    def read(self, files: tuple[Path, ...]) -> SourceTables:
        """Read the file and keep the clean rows."""
        (path,) = files
        notes = ["timestamps carry no zone and are taken as UTC"]
        rows = _drop_overlap(_read(path, notes), notes)
        customer = rows["CustomerID"].notna()
        cancelled = rows["InvoiceNo"].str.startswith("C")
        product = rows["StockCode"].str.match(r"[0-9]{5}")
        sold = customer & ~cancelled & (rows["Quantity"] > 0) & (rows["UnitPrice"] > 0) & product
        purchases = _events(rows[sold], "purchase")
        returned = customer & cancelled & (rows["Quantity"] < 0) & (rows["UnitPrice"] > 0) & product
        returns = _events(rows[returned], "return")
        known = returns["user_id"].isin(purchases["user_id"]) & returns["item_id"].isin(purchases["item_id"])
        dropped = len(rows) - len(purchases) - int(known.sum())
        notes.append(
            f"{dropped:,} of {len(rows):,} rows dropped: no customer, no positive price, a stock code that is no "
            "product (postage, fees), or a return by a user, or of an item, without any purchase"
        )
        tables = {
            "users": _users(rows[sold]),
            "items": _items(rows[sold], purchases),
            "events": pd.concat([purchases, returns[known]], ignore_index=True),
        }
        return SourceTables(
            tables={
                name: RawTable(f"{path.name} ({name})", pa.Table.from_pandas(frame, preserve_index=False))
                for name, frame in tables.items()
            },
            name="online_retail",
            description=_DESCRIPTION,
            citation=_CITATION,
            historical=True,
            test_start=datetime(2011, 11, 1, tzinfo=UTC),
            validation_start=datetime(2011, 10, 1, tzinfo=UTC),
            notes=tuple(notes),
        )


def _find(folder: Path) -> Path | None:
    """The first of the known names, in any case, in ``folder/online_retail_ii`` or ``folder``."""
    for place in (folder / _STEM, folder):
        if place.is_dir():
            files = {path.name.lower(): path for path in sorted(place.iterdir())}
            for suffix in _SUFFIXES:
                if (found := files.get(_STEM + suffix)) is not None:
                    return found
    return None


def _read(path: Path, notes: list[str]) -> pd.DataFrame:
    """The eight columns under the first edition's names: text, numbers and naive timestamps."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = pd.read_parquet(path)
    elif suffix == ".xlsx":
        rows = _read_excel(path)
    elif suffix == ".csv":
        rows = _read_csv(path, notes)
    else:
        raise InvalidInput(f"{path} is neither .parquet, .xlsx nor .csv")
    rows = rows.rename(columns=_RENAMED)
    for name in _COLUMNS:
        if name not in rows.columns:
            raise DataError(
                f"the column is missing (columns: {', '.join(map(str, rows.columns))})",
                file=path.name,
                column=name,
            )
    return pd.DataFrame(
        {
            "InvoiceNo": rows["InvoiceNo"].astype("string"),
            "StockCode": rows["StockCode"].astype("string"),
            "Description": rows["Description"].astype("string"),
            "Quantity": _numbers(rows["Quantity"], path),
            "InvoiceDate": _moments(rows["InvoiceDate"], path),
            "UnitPrice": _numbers(rows["UnitPrice"], path),
            "CustomerID": _numbers(rows["CustomerID"], path).astype("Int64").astype("string"),
            "Country": rows["Country"].astype("string"),
        }
    )


def _read_excel(path: Path) -> pd.DataFrame:
    """Both sheets, one after the other."""
    try:
        sheets = pd.read_excel(path, sheet_name=None, engine="calamine")
    except ImportError as error:
        raise ConfigurationError(f"{path.name} is an Excel file: pip install python-calamine") from error
    return pd.concat(sheets.values(), ignore_index=True)


def _read_csv(path: Path, notes: list[str]) -> pd.DataFrame:
    """UCI's own CSV is in Latin-1, later copies in UTF-8."""
    columns = (*_COLUMNS, *_RENAMED)
    try:
        raw = read_csv(path, columns)
    except DataError as error:
        if not error.reason.startswith("not UTF-8"):
            raise
        notes.append(f"{path.name} is not UTF-8 and was read as Latin-1")
        raw = read_csv(path, columns, encoding="latin1")
    frame = raw.data.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    return frame


def _numbers(values: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    _refuse_lost(values, numbers, "not a number", path)
    return numbers


def _moments(values: pd.Series, path: Path) -> pd.Series:
    moments = pd.to_datetime(values, format="ISO8601", errors="coerce")
    if moments.isna().any():
        # Copies made with an American Excel.
        moments = moments.fillna(pd.to_datetime(values, format="%m/%d/%Y %H:%M", errors="coerce"))
    _refuse_lost(values, moments, "not a time such as 2009-12-01 07:45:00", path)
    return moments


def _refuse_lost(given: pd.Series, parsed: pd.Series, reason: str, path: Path) -> None:
    lost = (given.notna() & parsed.isna()).to_numpy().nonzero()[0]
    if len(lost):
        row = int(lost[0])
        raise DataError(f"{given.iloc[row]!r} is {reason}", file=path.name, column=str(given.name), row=row + 1)


def _drop_overlap(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """UCI's two sheets both hold the first days of December 2010: keep those of the later sheet.

    A sheet is in order of time, so a new one begins where time jumps back.
    """
    begins = rows["InvoiceDate"].diff() < -timedelta(days=1)
    starts = rows.loc[begins, "InvoiceDate"]
    keep = pd.Series(True, index=rows.index)
    for position, start in starts.items():
        keep &= ~((rows.index < position) & (rows["InvoiceDate"] >= start))
    if not keep.all():
        notes.append(f"{(~keep).sum():,} rows that two sheets repeat dropped")
    return rows[keep].reset_index(drop=True)


def _events(rows: pd.DataFrame, event_type: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": rows["CustomerID"],
            "item_id": rows["StockCode"],
            "event_type": event_type,
            "timestamp": rows["InvoiceDate"],
            "quantity": rows["Quantity"].abs().astype("float64"),
            "price": rows["UnitPrice"],
            "basket_id": rows["InvoiceNo"],
        }
    )


def _most_frequent(rows: pd.DataFrame, key: str, value: str) -> pd.Series:
    """For each key its most frequent value; of equals the first in the alphabet."""
    counts = rows.groupby([key, value], sort=True).size().rename("count").reset_index()
    best = counts.sort_values("count", ascending=False, kind="stable").drop_duplicates(key)
    return best.set_index(key)[value].sort_index()


def _users(sold: pd.DataFrame) -> pd.DataFrame:
    country = _most_frequent(sold, "CustomerID", "Country")
    return pd.DataFrame({"user_id": country.index, "country": country.to_numpy()})


def _items(sold: pd.DataFrame, purchases: pd.DataFrame) -> pd.DataFrame:
    """Title and price only: the source has no categories and none are made up."""
    cleaned = {raw: sentence_case(raw) for raw in sold["Description"].unique()}
    title = _most_frequent(sold.assign(title=sold["Description"].map(cleaned)), "StockCode", "title")
    price = recent_median_price(purchases)
    return pd.DataFrame(
        {"item_id": title.index, "title": title.to_numpy(), "price": price.reindex(title.index).to_numpy()}
    )
