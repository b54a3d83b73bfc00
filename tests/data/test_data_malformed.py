"""Every malformed input, through the real command line: exit code 2, and file, column, row and reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import Result

Run = Callable[..., Result]

EVENT_HEADER = "user_id,item_id,event_type,timestamp"
GOOD_EVENT = "u1,i1,click,2024-03-01"

#: what is wrong -> (file, its text, column, row, part of the reason)
MALFORMED: dict[str, tuple[str, str | bytes, str | None, int | None, str]] = {
    "missing column": ("items.csv", "item_id\ni1\n", "title", None, "required column is missing (columns: item_id)"),
    "missing column under another name": (
        "events.csv", "userid,item_id,event_type,timestamp\nu1,i1,click,2024-03-01\n", "user_id", None,
        "rename 'userid'",
    ),
    "item under another name": ("items.csv", "product_id,title\ni1,Mug\n", "item_id", None, "rename 'product_id'"),
    "optional column misspelt": (
        "items.csv", "item_id,title,Pryce\ni1,Mug,1\n", "Pryce", None, "if it is 'price', rename it",
    ),
    "optional column in other letters": (
        "users.csv", "user_id,ageGroup\nu1,25-34\nu2,\n", "ageGroup", None, "if it is 'age_group', rename it",
    ),
    "repeated column": ("items.csv", "item_id,title,title\ni1,Mug,Cup\n", "title", None, "two columns have this name"),
    "price in words": ("items.csv", "item_id,title,price\ni1,Mug,1\ni2,Cup,abc\n", "price", 2, "'abc' is not a number"),
    "price NaN": ("items.csv", "item_id,title,price\ni1,Mug,NaN\ni2,Cup,1\n", "price", 1, "not a finite number"),
    "price infinite": ("items.csv", "item_id,title,price\ni1,Mug,-inf\ni2,Cup,1\n", "price", 1, "not a finite number"),
    "price beyond a double": ("items.csv", "item_id,title,price\ni1,Mug,1e999\n", "price", 1, "not a finite number"),
    "price negative": ("items.csv", "item_id,title,price\ni1,Mug,1\ni2,Cup,-0.01\n", "price", 2, "at least 0"),
    "quantity zero": (
        "events.csv", f"{EVENT_HEADER},quantity\n{GOOD_EVENT},2\n{GOOD_EVENT},0\n", "quantity", 2, "greater than 0",
    ),
    "unknown event type": (
        "events.csv", f"{EVENT_HEADER}\n{GOOD_EVENT}\nu1,i1,Purchases,2024-03-01\n", "event_type", 2,
        "'Purchases' is none of impression, click, cart, purchase, return; did you mean 'purchase'?",
    ),
    "empty event type": ("events.csv", f"{EVENT_HEADER}\nu1,i1,,2024-03-01\n", "event_type", 1, "is empty"),
    "duplicate item": (
        "items.csv", "item_id,title\ni1,Mug\ni2,Cup\ni1,Jug\n", "item_id", 3, "'i1' is in rows 1 and 3",
    ),
    "duplicate user": ("users.csv", "user_id\nu1\nu2\nu2\n", "user_id", 3, "'u2' is in rows 2 and 3"),
    "duplicate event": (
        "events.csv", f"{EVENT_HEADER},event_id\n{GOOD_EVENT},e\n{GOOD_EVENT},f\n{GOOD_EVENT},e\n", "event_id", 3,
        "'e' is in rows 1 and 3",
    ),
    "absent item": (
        "events.csv", f"{EVENT_HEADER}\n{GOOD_EVENT}\nu1,i9,click,2024-03-01\n", "item_id", 2,
        "'i9' is not in items.csv",
    ),
    "absent user": (
        "events.csv", f"{EVENT_HEADER}\n{GOOD_EVENT}\nu9,i1,click,2024-03-01\n", "user_id", 2,
        "'u9' is not in users.csv",
    ),
    "text of an absent user": (
        "texts.csv", "entity,entity_id,source,text\nitem,i1,review,Nice\nuser,i1,social,Hi\n", "entity_id", 2,
        "'i1' is not in users.csv",
    ),
    "future": (
        "events.csv", f"{EVENT_HEADER}\n{GOOD_EVENT}\nu1,i1,click,2199-01-01\n", "timestamp", 2, "lies in the future",
    ),
    "no time": (
        "events.csv", f"{EVENT_HEADER}\n{GOOD_EVENT}\nu1,i1,click,yesterday\n", "timestamp", 2,
        "'yesterday' is not an ISO 8601 time",
    ),
    "a day that does not exist": (
        "events.csv", f"{EVENT_HEADER}\nu1,i1,click,2024-02-30\n", "timestamp", 1, "is not an ISO 8601 time",
    ),
    "seconds since 1970": (
        "events.csv", f"{EVENT_HEADER}\nu1,i1,click,1709287200\n", "timestamp", 1, "is not an ISO 8601 time",
    ),
    "a missing date written as zero": (
        "events.csv", f"{EVENT_HEADER}\nu1,i1,click,1970-01-01\n", "timestamp", 1, "lies outside 1970-01-01",
    ),
    "empty id": ("items.csv", "item_id,title\ni1,Mug\n,Cup\n", "item_id", 2, "is empty"),
    "spaces around an id": ("items.csv", 'item_id,title\ni1,Mug\n" i2",Cup\n', "item_id", 2, "spaces around it"),
    "control character": ("items.csv", "item_id,title\ni1,Mug\ni\x072,Cup\n", "item_id", 2, "control character"),
    "line end in an id": ("items.csv", 'item_id,title\ni1,Mug\n"i\n2",Cup\n', "item_id", 2, "control character"),
    "long id": ("items.csv", f"item_id,title\ni1,Mug\n{'é' * 129},Cup\n", "item_id", 2, "258 bytes long, at most 256"),
    "ids that pandas made floats": (
        "users.csv", "user_id\n13085.0\n13086.0\n", "user_id", 1, "is a float where an id is expected; pandas turns",
    ),
    "blank title": ("items.csv", "item_id,title\ni1,Mug\ni2,  \n", "title", 2, "is blank"),
    "NUL in a title": ("items.csv", "item_id,title\ni1,M\0ug\n", "title", 1, "NUL"),
    "not UTF-8": ("items.csv", b"item_id,title\ni1,Mug\ni2,Caf\xe9\n", None, 2, "not UTF-8 at byte 27 (0xe9)"),
    "not UTF-8 after a quoted line end": (
        "items.csv", b'item_id,title\ni1,"Mug\nred"\n\xe9,Cup\n', None, 2, "not UTF-8 at byte 27",
    ),
    "not UTF-8 in the header": ("items.csv", b"item_id,titr\xe9\ni1,Mug\n", None, None, "in the header"),
    "cut inside a character": ("items.csv", b"item_id,title\ni1,Caf\xc3", None, 1, "not UTF-8 at byte 20"),
    "UTF-16": ("items.csv", "item_id,title\ni1,Mug\n".encode("utf-16"), None, None, "is UTF-16"),
    "empty file": ("items.csv", "", None, None, "the file is empty (0 bytes)"),
    "blank lines": ("items.csv", "\n\n", None, None, "blank lines only"),
    "header only": ("events.csv", f"{EVENT_HEADER}\n", None, None, "a header but no rows"),
    "header only, without a line end": ("events.csv", EVENT_HEADER, None, None, "a header but no rows"),
    "ragged": ("items.csv", "item_id,title\ni1,Mug\ni2,Cup, white\n", None, 2, "3 fields where the header has 2"),
    "short row": ("items.csv", "item_id,title\ni1,Mug\n\ni2\n", None, 2, "1 fields where the header has 2"),
    "semicolons": ("items.csv", "item_id;title\ni1;Mug\n", None, None, "separated by semicolons"),
    "unclosed quotation mark": ("items.csv", 'item_id,title\ni1,Mug\ni2,"Cup\ni3,Jug\n', None, 2, "not closed"),
    "Parquet in name only": ("items.parquet", b"item_id,title\ni1,Mug\n", None, None, "cannot be read as Parquet"),
    "empty Parquet": ("items.parquet", b"", None, None, "the file is empty (0 bytes)"),
}  # fmt: skip


def assert_refused(result: Result, file: str, column: str | None, row: int | None, reason: str) -> None:
    message = result.stderr
    place = file + (f", column {column!r}" if column else "") + (f", row {row}" if row else "") + ": "
    assert f"DataError: {place}" in message, message
    assert reason in message, message
    assert result.exit_code == 2


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_file_is_refused_with_its_place(run: Run, shop: Path, home: Path, case: str) -> None:
    file, content, column, row, reason = MALFORMED[case]
    if file == "items.parquet":
        (shop / "items.csv").unlink()
    (shop / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(run("--from", shop), file, column, row, reason)
    assert not (home / ".recsys" / "tables").exists(), "nothing half-loaded"


@pytest.mark.parametrize(
    ("column", "values", "row", "reason"),
    [
        ("item_id", pa.array([13085.0, None]), None, "is stored as double, expected text; pandas turns"),
        ("item_id", pa.array([b"i1", b"i2"]), None, "is stored as binary"),
        ("item_id", pa.array([True, False]), None, "is stored as bool"),
        ("title", pa.array([1.0, 2.0]), None, "is stored as double, expected text"),
        ("price", pa.array([1.0, float("nan")]), 2, "not a finite number"),
        ("price", pa.array([float("inf"), 1.0]), 1, "not a finite number"),
        ("price", pa.array([True, False]), None, "is stored as bool, expected a number"),
        ("price", pa.array(["1", "two"]), 2, "'two' is not a number"),
        ("available_from", pa.array([1, 2]), None, "is stored as int64, whose unit and zone"),
        ("available_from", pa.array([2**60, 1], pa.timestamp("us")), 1, "lies outside"),
        ("title", pa.array([b"Mug", b"Caf\xe9"]).view(pa.string()), 2, "not UTF-8"),
    ],
)
def test_wrong_parquet_type_is_refused(
    run: Run, shop: Path, column: str, values: pa.Array, row: int | None, reason: str
) -> None:
    (shop / "items.csv").unlink()
    columns = {"item_id": pa.array(["i1", "i2"]), "title": pa.array(["Mug", "Cup"]), column: values}
    parquet.write_table(pa.table(columns), shop / "items.parquet")
    assert_refused(run("--from", shop), "items.parquet", column, row, reason)


def test_future_is_judged_by_the_moment_of_loading(run: Run, shop: Path) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    (shop / "events.csv").write_text(f"{EVENT_HEADER}\nu1,i1,click,{soon.isoformat()}\n")
    assert_refused(run("--from", shop), "events.csv", "timestamp", 1, "lies in the future")


def test_count_of_rows_with_the_same_fault_is_told(run: Run, shop: Path) -> None:
    (shop / "items.csv").write_text("item_id,title,price\ni1,Mug,x\ni2,Cup,y\n")
    assert "(2 rows have this fault)" in run("--from", shop).stderr


def test_both_formats_of_one_table_are_refused(run: Run, shop: Path) -> None:
    (shop / "users.parquet").write_bytes(b"")
    assert_refused(run("--from", shop), "users.parquet", None, None, "both users.parquet and users.csv are in")


def test_required_table_without_a_file(run: Run, shop: Path) -> None:
    (shop / "events.csv").unlink()
    assert_refused(run("--from", shop), "events.parquet", None, None, "nor is events.csv")


def test_earlier_tables_survive_a_refused_load(run: Run, shop: Path, home: Path) -> None:
    assert run("--from", shop).exit_code == 0
    before = (home / ".recsys" / "tables" / "dataset.json").read_bytes()
    (shop / "items.csv").write_text("item_id,title\ni1,\n")
    assert run("--from", shop).exit_code == 2
    assert (home / ".recsys" / "tables" / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--source", "unheard_of"),
        ("--from", "no/such/folder"),
        ("--from", ".", "--source", "online_retail"),
        ("--source", "complete_journey", "--data", "."),
        ("--source", "online_retail", "--data", "tests"),
    ],
)
def test_wrong_options_end_with_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.stderr
    assert result.stderr
