"""The public data sets: complete_journey from its package, online_retail from RECSYS_DATA or small files."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from xml.sax.saxutils import escape

import pandas as pd
import pyarrow as pa
import pytest
from loopback_server import serving

from recsys_plugin.data.adapters import Places
from recsys_plugin.data.adapters.complete_journey import readable_name, readable_size
from recsys_plugin.data.adapters.online_retail import OnlineRetail
from recsys_plugin.data.prepare import prepare, prepare_data
from recsys_plugin.data.store import Dataset
from recsys_plugin.data.tables import ValidTables, validate_tables
from recsys_plugin.errors import ConfigurationError, DataError, InvalidInput, ServiceUnavailable
from recsys_plugin.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def quiet(what: str, done: int, total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def complete_journey(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare_data(Settings(home=tmp_path_factory.mktemp("home")), source="complete_journey", now=NOW)


def test_complete_journey(complete_journey: Dataset) -> None:
    assert complete_journey.counts == {"users": 2469, "items": 19831, "events": 1317910}
    assert complete_journey.event_types == {"purchase": 1317910}
    assert complete_journey.historical
    assert complete_journey.as_of == complete_journey.last_event
    assert complete_journey.test_start == datetime(2017, 12, 1, tzinfo=UTC)
    assert "simulated" in complete_journey.description.description
    notes = " ".join(complete_journey.description.notes)
    assert "11,275 transactions with no quantity or no sales value" in notes
    assert "fuel" in notes


def test_complete_journey_has_products_only_and_says_them_readably(complete_journey: Dataset) -> None:
    items = complete_journey.frame("items")
    assert not items["category"].str.contains("coupon|fuel|deposit", case=False, na=False).any()
    assert not items["title"].str.contains("gasoline|frzn", case=False).any()
    assert "Tortilla/nacho chips, 9 oz (National)" in set(items["title"])
    assert items["price"].between(0.01, 100).all()
    assert complete_journey.frame("events", ["quantity"])["quantity"].max() < 1000
    users = complete_journey.frame("users")
    assert users["age_group"].notna().sum() == 801
    assert users.loc[users["user_id"] == "1", "household"].item() == "2 Adults No Kids, household of 2"


@pytest.mark.parametrize(
    ("raw", "readable"),
    [
        ("FRZN MEAT/MEAT DINNERS", "Frozen meat/meat dinners"),
        ("CHIPS&SNACKS", "Chips & snacks"),
        ("CANDY BARS (SINGLES)(INCLUDING", "Candy bars (singles)"),
        ("FRZN SS PREMIUM ENTREES/DNRS/N", "Frozen single serve premium entrees/dinners"),
        ("VEGETABLES - SHELF STABLE", "Vegetables, shelf stable"),
        ("FEM. HYGN. TAMPONS", "Feminine hygiene tampons"),
    ],
)
def test_readable_names(raw: str, readable: str) -> None:
    assert readable_name(raw) == readable


def test_readable_size() -> None:
    assert readable_size(".75   OZ") == "0.75 oz"
    assert readable_size("15.25 OZ") == "15.25 oz"


@pytest.fixture(scope="module")
def online_retail(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    if not os.environ.get("RECSYS_DATA"):
        pytest.skip("set RECSYS_DATA to a folder with online_retail_ii/ to test on UCI Online Retail II")
    data = Path(os.environ["RECSYS_DATA"]).resolve()
    return prepare_data(Settings(home=tmp_path_factory.mktemp("home"), data=data), source="online_retail", now=NOW)


def test_online_retail_has_exactly_the_clean_purchases_and_says_where_they_are_from(online_retail: Dataset) -> None:
    events = online_retail.frame("events", ["user_id", "item_id", "event_type", "quantity", "basket_id"])
    purchases = events[events["event_type"] == "purchase"]
    assert len(purchases) == 788_187
    assert purchases["user_id"].nunique() == online_retail.counts["users"] == 5_852
    assert purchases["item_id"].nunique() == online_retail.counts["items"] == 4_619
    assert purchases["basket_id"].nunique() == 36_594
    returns = events[events["event_type"] == "return"]
    assert len(returns) == 17_536
    assert returns["basket_id"].str.startswith("C").all()
    assert (events["quantity"] > 0).all()
    assert online_retail.test_start == datetime(2011, 11, 1, tzinfo=UTC)
    assert online_retail.validation_start == datetime(2011, 10, 1, tzinfo=UTC)
    assert online_retail.as_of == online_retail.last_event
    assert "CC BY 4.0" in online_retail.description.citation
    items = online_retail.frame("items")
    assert items["category"].isna().all()
    assert items.loc[items["item_id"] == "85123A", "title"].item() == "White hanging heart t-light holder"


ROWS = (
    ("489434", "85048", "PINK  MUG ", "2", "2009-12-01 07:45:00", "6.95", "13085", "France"),
    ("489434", "85048", "PINK MUG", "2", "2009-12-01 07:45:00", "6.95", "13085", "France"),
    ("489435", "POST", "POSTAGE", "1", "2010-12-01 08:00:00", "18.0", "13085", "France"),
    ("489436", "22041", "RED TIN", "1", "2010-12-09 09:00:00", "2.1", "", "France"),
    # The second sheet: its first row repeats one of the first sheet's period.
    ("489435", "POST", "POSTAGE", "1", "2010-12-01 08:00:00", "18.0", "13085", "France"),
    ("C48943", "85048", "PINK MUG", "-1", "2010-12-02 08:00:00", "6.95", "13085", "France"),
    ("C48944", "22041", "RED TIN", "-1", "2010-12-02 09:00:00", "2.1", "13085", "France"),
    ("489437", "85048", "pink mug?", "1", "2010-12-03 09:00:00", "7.5", "13086", "Café"),
)
HEADER = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country")


def check_small(valid: ValidTables) -> None:
    items, users = (valid.tables[name].to_pandas() for name in ("items", "users"))
    events = pa.concat_tables(valid.events.pieces()).to_pandas()
    assert items[["item_id", "title", "price"]].to_numpy().tolist() == [["85048", "Pink mug", 7.5]]
    assert users[["user_id", "country"]].to_numpy().tolist() == [["13085", "France"], ["13086", "Café"]]
    assert events["event_type"].tolist() == ["purchase", "purchase", "return", "purchase"]
    assert events["quantity"].tolist() == [2.0, 2.0, 1.0, 1.0]
    assert events["event_id"].is_unique


def read_small(path: Path) -> ValidTables:
    source = OnlineRetail().read(OnlineRetail().locate(Places(path, None, path.parent), quiet))
    assert any("2 rows that two sheets repeat" in note for note in source.notes), source.notes
    return validate_tables(source.tables, now=NOW, scratch=path.parent)


@pytest.mark.parametrize("encoding", ["utf8", "latin1"])
def test_online_retail_from_csv(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "online_retail_II.csv"
    path.write_text("\n".join(map(",".join, (HEADER, *ROWS))) + "\n", encoding)
    check_small(read_small(path))
    assert OnlineRetail().locate(Places(tmp_path, None, tmp_path), quiet) == (path,)


def test_online_retail_from_csv_with_american_dates(tmp_path: Path) -> None:
    path = tmp_path / "online_retail_ii.csv"
    frame = pd.DataFrame(ROWS, columns=list(HEADER))
    frame["InvoiceDate"] = pd.to_datetime(frame["InvoiceDate"]).dt.strftime("%m/%d/%Y %H:%M")
    frame.to_csv(path, index=False)
    check_small(read_small(path))


def test_online_retail_names_the_row_at_fault(tmp_path: Path) -> None:
    path = tmp_path / "online_retail_ii.csv"
    path.write_text(",".join(HEADER) + "\n" + ",".join(ROWS[0]).replace(",2,", ",two,") + "\n")
    with pytest.raises(DataError, match="column 'Quantity', row 1: 'two' is not a number"):
        OnlineRetail().read((path,))


def excel_file() -> bytes:
    """The rows as UCI publishes them, in the smallest workbook that Excel would open: two sheets, mixed cell types."""

    def cell(text: str) -> str:
        number = text.lstrip("-").replace(".", "", 1).isdigit()
        return f"<c><v>{text}</v></c>" if number else f'<c t="inlineStr"><is><t>{escape(text)}</t></is></c>'

    def row(values: tuple[str, ...]) -> str:
        cells = (
            f"<c r='{column}1'/>" if not value else cell(value)
            for column, value in zip("ABCDEFGH", values, strict=True)
        )
        return "<row>" + "".join(cells) + "</row>"

    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    sheets = ((HEADER, *ROWS[:4]), (HEADER, *ROWS[4:]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
        book.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/></Types>',
        )
        book.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{office}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        book.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="Year 2009-2010" sheetId="1" r:id="s1"/>'
            '<sheet name="Year 2010-2011" sheetId="2" r:id="s2"/></sheets></workbook>',
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships">'
            + "".join(
                f'<Relationship Id="s{n}" Type="{office}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in (1, 2)
            )
            + "</Relationships>",
        )
        for number, rows in enumerate(sheets, 1):
            body = "".join(map(row, rows))
            book.writestr(
                f"xl/worksheets/sheet{number}.xml",
                f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>',
            )
    return buffer.getvalue()


def test_online_retail_from_excel(tmp_path: Path) -> None:
    path = tmp_path / "online_retail_II.xlsx"
    path.write_bytes(excel_file())
    check_small(read_small(path))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on loopback and the folder it serves."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with serving(partial(Quiet, directory=str(folder))) as url:
        yield url, folder


def test_online_retail_is_downloaded_once(tmp_path: Path, web: tuple[str, Path]) -> None:
    address, folder = web
    with zipfile.ZipFile(folder / "uci.zip", "w") as archive:
        archive.writestr("online_retail_II.xlsx", excel_file())
    adapter = OnlineRetail(url=f"{address}/uci.zip", timeout=30)
    places = Places(None, None, tmp_path / "downloads")
    (path,) = adapter.locate(places, quiet)
    assert path.read_bytes() == excel_file()
    (folder / "uci.zip").unlink()
    assert adapter.locate(places, quiet) == (path,)
    assert list(places.downloads.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"not a zip archive", None])
def test_failed_download_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, web: tuple[str, Path], content: bytes | None
) -> None:
    address, folder = web
    if content is not None:
        (folder / "uci.zip").write_bytes(content)
    with pytest.raises(ServiceUnavailable, match="pass --data FILE"):
        OnlineRetail(url=f"{address}/uci.zip").locate(Places(None, None, tmp_path / "downloads"), quiet)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_without_a_network_the_download_is_refused(tmp_path: Path) -> None:
    with serving(SimpleHTTPRequestHandler) as closed:
        pass
    with pytest.raises(ServiceUnavailable, match="cannot download"):
        OnlineRetail(url=f"{closed}/uci.zip").locate(Places(None, None, tmp_path / "downloads"), quiet)


def test_folder_of_data_sets_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="RECSYS_DATA"):
        OnlineRetail().locate(Places(None, tmp_path / "absent", tmp_path), quiet)


def test_named_path_without_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no online_retail_ii"):
        prepare(Settings(home=tmp_path), source="online_retail", path=tmp_path, now=NOW)
